"""Deletion, insertion and least-relevant-first deletion over one shared schedule of forwards.

The images that insertion passes through, read backwards, are those of deleting the least relevant
cells first: at k removed that is insertion at n - k. So two runs serve three curves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import MetricError, did_you_mean
from ..geometry import size_of
from ._inputs import as_images, as_maps, finite_reasons, kept, resize_maps
from ._register import register_metric
from .baselines import Baseline
from .baselines import baseline as make_baseline
from .forward import Scorer, scoring
from .protocol import SCORE_NAMES, Protocol
from .scores import Curve, scattered
from .substrates import pixel_ranks, schedule, unit_name

#: curve -> short name in a protocol, and whether higher is better
CURVES = {"deletion": ("del", False), "insertion": ("ins", True), "lerf": ("lerf", True)}


def faithfulness_curves(
    model: Callable[[Tensor], Any],
    x: Tensor,
    maps: Any,
    target: Any = None,
    *,
    curves: Sequence[str] = ("deletion", "insertion", "lerf"),
    baseline: str | Tensor = "mean",
    steps: int = 32,
    substrate: str = "pixel",
    patch: int | None = None,
    score: str = "probability",
    batch_size: int | None = None,
    seed: int = 0,
) -> dict[str, Curve]:
    """Return deletion, insertion and least-relevant-first curves from one set of forwards.

    Args:
        model: a module or function, `model(x)` -> logits (B, classes).
        x: (B, C, H, W) the model's input.
        maps: (B, h, w) relevance, any library's; resized bilinearly to (H, W).
        target: None (the predicted class), an index, a list, a `Target`, or a function of the
            output that returns (B,).
        curves: which of "deletion", "insertion", "lerf".
        baseline: what replaces removed cells, see `baselines.baseline`.
        steps: intervals of the curve; fewer where the image has fewer cells.
        substrate: "pixel", or "patch" to remove squares of pixels at once.
        patch: side of a patch in pixels; None is a fourteenth of the shorter side.
        score: "probability" or "logit".
        batch_size: images a forward pass at most; None chooses, few on a CPU.
            Double precision on the CPU runs one by one, so that results do not depend on the batch
            in any bit.
        seed: of the order among equally relevant cells, of noise baselines.

    Returns:
        {curve: Curve}. A map with NaN or infinity is skipped, with its reason; a constant one is
        ranked at random.
    """
    _known(curves)
    x = as_images(x)
    maps = as_maps(maps, len(x), x.device)
    reasons = finite_reasons(maps)
    index = kept(reasons, x.device)
    replacement = make_baseline(baseline, x, seed=seed)
    rank, n = pixel_ranks(
        resize_maps(maps[index], size_of(x)),
        x[index],
        substrate=substrate,
        patch=patch,
        seed=seed,
    )
    counts = torch.tensor(schedule(n, steps), device=x.device)
    fraction = counts.double() / n
    runs = [r for r in ("deletion", "insertion") if r in map(_run_of, curves)]
    with scoring(model, x, target, score=score, batch_size=batch_size) as scorer:
        both = _both_runs(scorer, index, rank, counts, replacement, runs)
    found = {}
    for name in curves:
        points, at = both[_run_of(name)], fraction
        if name == "lerf":
            points, at = points.flip(1), 1 - fraction.flip(0)
        full = scattered(points, index, len(x))
        short, better = CURVES[name]
        unit = unit_name(size_of(x), substrate, patch)
        protocol = Protocol.of(
            name,
            SCORE_NAMES[score],
            replacement.name,
            f"{steps} steps",
            unit,
            short=short,
            higher_is_better=better,
            score=score,
            baseline=replacement.name,
            steps=steps,
            substrate=unit,
            seed=seed,
        )
        area = torch.trapezoid(full, at.to(full), dim=1)
        found[name] = Curve(area, protocol, tuple(reasons), fraction=at, scores=full)
    return found


def _run_of(curve: str) -> str:
    return "deletion" if curve == "deletion" else "insertion"


def _known(curves: Sequence[str]) -> None:
    for name in curves:
        if name not in CURVES:
            raise MetricError(
                f"curve {name!r} is not known{did_you_mean(name, CURVES) or '.'} Known: "
                f"{', '.join(CURVES)}"
            )


def _both_runs(
    scorer: Scorer,
    index: Tensor,
    rank: Tensor,
    counts: Tensor,
    replacement: Baseline,
    runs: Sequence[str],
) -> dict[str, Tensor]:
    """Return {run: (B', K + 1)} for the images at `index`, whose pixels have `rank`."""
    inner = len(counts) - 2
    # per image: all removed, once, then the inner points of each run; the whole image is known
    points = torch.cat([counts[-1:], *[counts[1:-1]] * len(runs)])
    keeps_top = torch.tensor(
        [False, *(run == "insertion" for run in runs for _ in range(inner))], device=index.device
    )
    row = torch.arange(len(index), device=index.device).repeat_interleave(len(points))

    def build(jobs: Tensor) -> Tensor:
        local, point = row[jobs], jobs % len(points)
        top = rank[local] < points[point, None, None]
        keep = top == keeps_top[point, None, None]
        return replacement.apply(scorer.x, index[local], keep)

    found = scorer(index[row], build).view(len(index), len(points))
    whole, nothing = scorer.original[index, None], found[:, :1]
    both = {}
    for number, run in enumerate(runs):
        middle = found[:, 1 + number * inner : 1 + (number + 1) * inner]
        ends = (whole, nothing) if run == "deletion" else (nothing, whole)
        both[run] = torch.cat([ends[0], middle, ends[1]], 1)
    return both


def _curve_forwards(options: Mapping[str, Any]) -> int:
    return options.get("steps", 32) + 1


def _curve_imputations(options: Mapping[str, Any]) -> int:
    return options.get("steps", 32) if options.get("baseline") == "imputed" else 0


@register_metric(
    "deletion",
    family="faithfulness",
    needs=("model",),
    higher_is_better=False,
    paper="arXiv:1806.07421",
    forwards=_curve_forwards,
    imputations=_curve_imputations,
)
def deletion(model: Any, x: Tensor, maps: Any, target: Any = None, **options: Any) -> Curve:
    """Deletion: the score while the most relevant cells are removed first; a small area is good.

    Petsiuk, Das & Saenko, "RISE" (BMVC 2018, arXiv:1806.07421); Samek et al. (2017) call it
    most-relevant-first. Arguments as `faithfulness_curves`; differs from RISE in its defaults: the
    baseline is the image's mean colour, not black, over 32 steps.

    Returns:
        `Curve` with `fraction` (K + 1,) removed, `scores` (B, K + 1) and `auc` (B,).
    """
    return faithfulness_curves(model, x, maps, target, curves=("deletion",), **options)["deletion"]


@register_metric(
    "insertion",
    family="faithfulness",
    needs=("model",),
    higher_is_better=True,
    paper="arXiv:1806.07421",
    forwards=_curve_forwards,
    imputations=_curve_imputations,
)
def insertion(model: Any, x: Tensor, maps: Any, target: Any = None, **options: Any) -> Curve:
    """Insertion: the score while the most relevant cells are shown first; a large area is good.

    Petsiuk, Das & Saenko, "RISE" (BMVC 2018, arXiv:1806.07421). Arguments as
    `faithfulness_curves`; RISE inserts into a blurred image (`baseline="blur"`).

    Returns:
        `Curve` with `fraction` (K + 1,) shown, `scores` (B, K + 1) and `auc` (B,).
    """
    return faithfulness_curves(model, x, maps, target, curves=("insertion",), **options)[
        "insertion"
    ]


@register_metric(
    "lerf",
    family="faithfulness",
    needs=("model",),
    higher_is_better=True,
    paper="doi:10.1109/TNNLS.2016.2599820",
    aliases=("least_relevant_first",),
    forwards=_curve_forwards,
    imputations=_curve_imputations,
)
def lerf(model: Any, x: Tensor, maps: Any, target: Any = None, **options: Any) -> Curve:
    """Least-relevant-first deletion: the score while what does not matter goes; large is good.

    Samek, Binder, Montavon, Lapuschkin & Müller, "Evaluating the Visualization of What a Deep
    Neural Network Has Learned" (IEEE TNNLS 2017). Arguments as `faithfulness_curves`. On one
    baseline its curve is the insertion curve read backwards, so the two areas are equal.

    Returns:
        `Curve` with `fraction` (K + 1,) removed, `scores` (B, K + 1) and `auc` (B,).
    """
    return faithfulness_curves(model, x, maps, target, curves=("lerf",), **options)["lerf"]
