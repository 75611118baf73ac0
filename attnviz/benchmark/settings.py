"""What is compared, and by which measures."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import MetricError
from ..methods import METHODS
from ..metrics import BASELINES, CONTROLS, METRICS
from ..metrics.curves import CURVES
from ..registry import Entry


@dataclass(frozen=True)
class Measure:
    """A metric with its options.

    Attributes:
        key: how results name it: the metric, and "@baseline" where it checks the ranking.
        metric: registered name.
        options: keyword arguments of the metric's function.
        checks: only there to see whether the ranking survives another baseline.
    """

    key: str
    metric: str
    options: Mapping[str, Any]
    checks: bool = False

    @property
    def entry(self) -> Entry:
        """The metric's entry in the registry."""
        return METRICS.get(self.metric)

    @property
    def needs(self) -> tuple[str, ...]:
        """What it is called with, see `attnviz.metrics.NEEDS`."""
        return self.entry.meta["needs"]


@dataclass(frozen=True)
class Settings:
    """Everything that a comparison's numbers depend on, but for the model and the images.

    Attributes:
        methods: names of `attnviz methods`.
        metrics: names of `attnviz.metrics.METRICS`.
        baselines: what removed pixels become; the first is the one reported, the others check
            whether the ranking of the methods survives.
        steps: intervals of a deletion or insertion curve.
        check_steps: the same for the other baselines.
        score: "probability" or "logit".
        substrate: "pixel" or "patch".
        controls: judge maps that know nothing of the model, too.
        target: the class explained, an index or label; None is each image's predicted class.
        layer: where maps are made; None is the model's default.
        seed: of all that is drawn.
    """

    methods: tuple[str, ...]
    metrics: tuple[str, ...]
    baselines: tuple[str, ...] = ("mean", "zero", "blur", "imputed")
    steps: int = 32
    check_steps: int = 8
    score: str = "probability"
    substrate: str = "pixel"
    controls: bool = True
    target: int | str | None = None
    layer: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "methods", tuple(dict.fromkeys(METHODS.get(m).name for m in self.methods)))
        put(self, "metrics", tuple(dict.fromkeys(METRICS.get(m).name for m in self.metrics)))
        if not self.methods or not self.metrics:
            raise MetricError("a comparison needs at least one method and one metric")
        for name in self.baselines:
            if name not in BASELINES:
                raise MetricError(f"baseline {name!r} is not one of {', '.join(BASELINES)}")
        if not self.baselines:
            raise MetricError("at least one baseline is needed, such as mean")

    def measures(self) -> list[Measure]:
        """Return the measures in the order asked for, then those that check the ranking."""
        found = [
            Measure(m, m, self._options(METRICS.get(m), self.baselines[0])) for m in self.metrics
        ]
        for baseline in self.baselines[1:] if len(self.methods) > 1 else ():
            for name in self.metrics:
                entry = METRICS.get(name)
                if name in CURVES or _replaces(name):
                    options = self._options(entry, baseline)
                    if "steps" in options:
                        options["steps"] = self.check_steps
                    found.append(Measure(f"{name}@{baseline}", name, options, checks=True))
        return found

    def control_names(self, masks: bool) -> list[str]:
        """Return the controls that are judged."""
        return [c for c in CONTROLS if self.controls and (c != "mask" or masks)]

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as JSON values."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    def _options(self, entry: Entry, baseline: str) -> dict[str, Any]:
        wanted = {
            "steps": self.steps,
            "substrate": self.substrate,
            "score": self.score,
            "seed": self.seed,
        }
        if entry.name in CURVES or _replaces(entry.name):
            wanted["baseline"] = baseline
        if entry.name == "average_gain":
            del wanted["score"]  # a share of probability by definition
        if entry.name == "pooled_pxap":
            wanted["legacy"] = True  # counts in bins can be kept on disk, all pixels cannot
        return {k: v for k, v in wanted.items() if k in _accepted(entry)}


def _replaces(name: str) -> bool:
    """Whether a metric's baseline is a choice of its user rather than part of its definition."""
    return name in ("saco", "irof", "sensitivity_n")


def _accepted(entry: Entry) -> set[str]:
    if entry.name in CURVES:
        return {"steps", "substrate", "score", "seed", "baseline", "batch_size"}
    names = set(inspect.signature(entry.fn).parameters)
    if "options" in names:  # the drops and the faithfulness correlation hand theirs on
        names |= {"score", "seed", "batch_size"}
    return names


def default_metrics(masks: bool, boxes: bool) -> tuple[str, ...]:
    """Return the metrics that are judged by if none are named."""
    found = ["deletion", "insertion", "road", "average_drop"]
    found += ["energy", "pointing", "pxap"] if masks else []
    found += ["box_iou"] if boxes else []
    return tuple(found)
