"""Is a map to be believed? Faithfulness, robustness, randomisation, localisation, complexity.

Every metric is a pure function that returns per-image values with the protocol they were taken
under (`Scores`); `StreamingMetric` takes any of them over many batches, with torchmetrics' method
names. Maps are any tensor or array (B, h, w), from any library; models are any `model(x)` ->
logits. Nothing is changed: not the model, not the caller's arrays.

`METRICS` lists them by name. `control_maps`, `bootstrap`, `compare_methods` and
`ranking_stability` turn numbers into statements.
"""

from ..statistics.intervals import Interval
from ..statistics.resampling import holm, sign_flip_test
from ._register import METRICS, NEEDS, register_metric
from .adcc import adcc, arcc
from .baselines import BASELINES, baseline, blur
from .bootstrap import bootstrap
from .complexity import effective_size, entropy, gini
from .controls import CONTROLS, control_maps, relative
from .curves import (
    CURVES,
    deletion,
    faithfulness_curves,
    insertion,
    lerf,
)
from .drops import (
    average_drop,
    average_gain,
    average_increase,
)
from .energy import energy
from .f_fidelity import f_fidelity
from .grid_pointing import (
    DisconnectedGrid,
    Grids,
    cell_energy,
    difull,
    grid_members,
    grid_pointing,
    make_grids,
)
from .imputation import impute
from .infidelity import infidelity
from .iou import box_iou, iou
from .irof import irof
from .maxbox import BoxAccuracy, maxboxacc, maxboxacc_v2
from .paired import Comparison, compare_methods
from .pointing import pointing
from .protocol import Protocol, require_alike
from .pxap import (
    PooledPrecision,
    area_under_roc,
    auroc,
    average_precision,
    pooled_pxap,
    pxap,
)
from .randomisation import (
    parameter_groups,
    parameter_randomisation,
    random_logit,
    randomise_,
    randomised,
)
from .ranking import RankingStability, kendall, ranking_stability
from .road import road
from .robustness import max_sensitivity, stability
from .saco import saco
from .scores import Curve, Scores
from .segments import superpixels
from .sensitivity_n import (
    faithfulness_correlation,
    sensitivity_n,
)
from .similarity import SIMILARITIES, similarity
from .streaming import StreamingMetric

__all__ = [
    "BASELINES",
    "CONTROLS",
    "CURVES",
    "METRICS",
    "NEEDS",
    "SIMILARITIES",
    "BoxAccuracy",
    "Comparison",
    "Curve",
    "DisconnectedGrid",
    "Grids",
    "Interval",
    "PooledPrecision",
    "Protocol",
    "RankingStability",
    "Scores",
    "StreamingMetric",
    "adcc",
    "arcc",
    "area_under_roc",
    "auroc",
    "average_drop",
    "average_gain",
    "average_increase",
    "average_precision",
    "baseline",
    "blur",
    "bootstrap",
    "box_iou",
    "cell_energy",
    "compare_methods",
    "control_maps",
    "deletion",
    "difull",
    "effective_size",
    "energy",
    "entropy",
    "f_fidelity",
    "faithfulness_correlation",
    "faithfulness_curves",
    "gini",
    "grid_members",
    "grid_pointing",
    "holm",
    "impute",
    "infidelity",
    "insertion",
    "iou",
    "irof",
    "kendall",
    "lerf",
    "make_grids",
    "max_sensitivity",
    "maxboxacc",
    "maxboxacc_v2",
    "parameter_groups",
    "parameter_randomisation",
    "pointing",
    "pooled_pxap",
    "pxap",
    "random_logit",
    "randomise_",
    "randomised",
    "ranking_stability",
    "register_metric",
    "relative",
    "require_alike",
    "road",
    "saco",
    "sensitivity_n",
    "sign_flip_test",
    "similarity",
    "stability",
    "superpixels",
]

# every metric under its own name, those of further files and plug-ins too; a module of that name
# would hide its function
globals().update({e.name: e.fn for e in METRICS if not callable(globals().get(e.name))})
