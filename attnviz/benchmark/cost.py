"""What a comparison will cost, before it starts."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..metrics import impute
from ..metrics.curves import CURVES
from ..metrics.forward import untouched
from .judging import Explainer
from .settings import Measure, Settings


@dataclass(frozen=True)
class Cost:
    """Work for each image, and the seconds that a piece of it takes on this machine.

    Attributes:
        forwards: images through the model.
        imputations: images imputed.
        explanations: map's name -> how often it is made.
        seconds: "forward", "imputation" and each map's name -> seconds for one.
    """

    forwards: int
    imputations: int
    explanations: Mapping[str, int]
    seconds: Mapping[str, float]

    @property
    def per_image(self) -> float:
        """Seconds for each image."""
        found = self.forwards * self.seconds["forward"]
        found += self.imputations * self.seconds["imputation"]
        return found + sum(n * self.seconds[name] for name, n in self.explanations.items())

    def describe(self, images: int) -> str:
        """Return the cost of so many images in words."""
        made = sum(self.explanations.values()) * images
        return (
            f"{self.forwards * images:,} forward passes and {made:,} maps, "
            f"about {duration(self.per_image * images)}"
        )

    def as_dict(self, images: int) -> dict[str, Any]:
        """Return the cost of so many images as JSON values."""
        return {
            "images": images,
            "forwards": self.forwards * images,
            "imputations": self.imputations * images,
            "maps": {name: n * images for name, n in self.explanations.items()},
            "seconds": round(self.per_image * images, 1),
        }


def duration(seconds: float) -> str:
    """Return a time in words: `40 s`, `3 min 20 s`, `2 h 5 min`."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"


def count(
    settings: Settings, methods: Sequence[str], controls: Sequence[str]
) -> tuple[int, int, dict[str, int]]:
    """Return forward passes, imputations and explanations by map's name, for each image."""
    forwards, imputations = 1, 0  # the first tells the class
    explanations = {name: 1 for name in methods}
    measures = settings.measures()
    for name in (*methods, *controls):
        mine = [m for m in measures if not m.checks or name in methods]
        for options in _curve_groups(mine):
            runs = ("deletion" in options[1]) + any(c != "deletion" for c in options[1])
            steps = options[0]["steps"]
            forwards += 2 + runs * (steps - 1)
            if options[0]["baseline"] == "imputed":
                imputations += 1 + runs * (steps - 1)
        for measure in mine:
            if measure.metric in CURVES:
                continue
            meta = measure.entry.meta
            forwards += meta["forwards"](measure.options)
            imputations += meta["imputations"](measure.options)
            if {"explainer", "grid"} & {*measure.needs} and name != "mask":
                again = meta["explanations"](measure.options)
                explanations[name] = explanations.get(name, 0) + again
    return forwards, imputations, explanations


def _curve_groups(measures: Sequence[Measure]) -> list[tuple[Mapping[str, Any], set[str]]]:
    groups: dict[str, tuple[Mapping[str, Any], set[str]]] = {}
    for measure in measures:
        if measure.metric in CURVES:
            key = repr(sorted(measure.options.items()))
            groups.setdefault(key, (measure.options, set()))[1].add(measure.metric)
    return list(groups.values())


def measure_cost(
    settings: Settings,
    model: nn.Module,
    x: Tensor,
    target: Sequence[Any],
    explainers: Mapping[str, Explainer],
    methods: Sequence[str],
    controls: Sequence[str],
    *,
    batch_size: int,
) -> Cost:
    """Return the cost for each image, timing one batch of forwards and every map on one image.

    Args:
        settings: what is compared.
        model: the network.
        x: (1, C, H, W) a first image.
        target: what it is explained for.
        explainers: how maps are made.
        methods: the methods judged.
        controls: the controls judged.
        batch_size: images a forward pass.
    """
    forwards, imputations, explanations = count(settings, methods, controls)
    rows = x.expand(min(batch_size, 8), -1, -1, -1).contiguous()
    with untouched(model):
        model(x)  # the first call is slower
        seconds = {"forward": _seconds(lambda: model(rows), x.device) / len(rows)}
    removed = torch.zeros(1, *x.shape[-2:], dtype=torch.bool, device=x.device)
    removed[:, : x.shape[-2] // 2] = True
    seconds["imputation"] = _seconds(lambda: impute(x, removed), x.device) if imputations else 0.0
    for name in explanations:
        seconds[name] = _seconds(lambda name=name: explainers[name](model, x, target), x.device)
    return Cost(forwards, imputations, explanations, seconds)


def _seconds(run: Any, device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
