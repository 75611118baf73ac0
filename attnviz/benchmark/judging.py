"""Judge maps of one batch by every measure."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import AttnvizError, AttnvizWarning
from ..explaining import explain
from ..geometry import size_of
from ..metrics import DisconnectedGrid, Scores, control_maps, faithfulness_curves
from ..metrics.curves import CURVES
from ..models.outputs import logits_of
from .settings import Measure

#: measure's key -> map's name (a method or control) -> result
Judged = dict[str, dict[str, Scores]]


@dataclass(frozen=True)
class JudgedBatch:
    """Images of one size, ready for the model.

    Attributes:
        model: the network.
        x: (B, C, H, W) its input.
        target: what each image is explained for, class indices where they are.
        classes: number of the model's classes.
        masks: per image (H, W) bool where the object is, None where it is not annotated.
        boxes: per image, half-open boxes on the input.
        batch_size: images a forward pass at most.
    """

    model: nn.Module
    x: Tensor
    target: Sequence[Any]
    classes: int
    masks: Sequence[Tensor | None]
    boxes: Sequence[Sequence[tuple[float, float, float, float]]]
    batch_size: int


#: model, images, targets -> maps
Explainer = Callable[[nn.Module, Tensor, Sequence[Any]], Tensor]


def method_explainer(name: str, layer: str | None) -> Explainer:
    """Return a method as a function of model, images and targets.

    A network of random weights may give no finite score, or none that depends on the layer: its
    map is NaN then, which the measure counts as unlike any other. Of a `DisconnectedGrid` the
    cells are explained, for a score that is zero but in the target's cell.
    """

    def run(model: nn.Module, x: Tensor, target: Any) -> Tensor:
        if isinstance(model, DisconnectedGrid):
            cells, number = model.cells(x), model.side**2

            def score(output: Any) -> Tensor:
                logits = logits_of(output).unflatten(0, (len(x), number))
                index = torch.as_tensor(target, device=logits.device)
                cell, cls = index // logits.shape[2], index % logits.shape[2]
                row = torch.arange(len(x), device=logits.device)
                here = torch.zeros(len(x), number, device=logits.device, dtype=logits.dtype)
                here[row, cell] = 1
                return (logits[row, :, cls] * here).flatten()

            return explained(model.model, cells, score)
        return explained(model, x, list(target))

    def explained(model: nn.Module, x: Tensor, target: Any) -> Tensor:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", AttnvizWarning)
                return explain(model, x, method=name, layer=layer, target=target).values
        except AttnvizError:
            return x.new_full((len(x), 1, 1), float("nan"))

    return run


def control_explainer(name: str, size: tuple[int, int], seed: int) -> Explainer:
    """Return a control as a function of model, images and targets, of which it reads one."""

    def run(model: nn.Module, x: Tensor, target: Sequence[Any]) -> Tensor:
        return control_maps(x, size=size, seed=seed)[name]

    return run


def judge_grid(
    measures: Sequence[Measure],
    model: nn.Module,
    x: Tensor,
    classes: Sequence[int],
    explainers: Mapping[str, Explainer],
) -> Judged:
    """Return every measure of grids for the images (B, C, H, W) of one grid, in their order."""
    judged: Judged = {m.key: {} for m in measures}
    for measure in measures:
        for name, explainer in explainers.items():
            found = measure.entry.fn(explainer, model, x, classes, **measure.options)
            order = found.extra["image"].argsort().tolist()
            reasons = tuple(found.reasons[i] for i in order)
            judged[measure.key][name] = Scores(found.values[order], found.protocol, reasons)
    return judged


def judge(
    measures: Sequence[Measure],
    batch: JudgedBatch,
    maps: Mapping[str, Tensor],
    explainers: Mapping[str, Explainer],
    methods: Sequence[str],
) -> Judged:
    """Return every measure of every map.

    Args:
        measures: what to judge by.
        batch: the images.
        maps: name -> (B, h, w).
        explainers: name -> how its maps are made, for measures that make them anew.
        methods: names that measures with `checks` are limited to.
    """
    judged: Judged = {m.key: {} for m in measures}
    for name, values in maps.items():
        wanted = [m for m in measures if not m.checks or name in methods]
        curves = [m for m in wanted if m.metric in CURVES]
        for group in _alike(curves):
            found = faithfulness_curves(
                batch.model,
                batch.x,
                values,
                list(batch.target),
                curves=[m.metric for m in group],
                batch_size=batch.batch_size,
                **group[0].options,
            )
            for measure in group:
                judged[measure.key][name] = found[measure.metric]
        for measure in wanted:
            if measure.metric not in CURVES:
                result = _one(measure, batch, values, explainers.get(name))
                if result is not None:
                    judged[measure.key][name] = result
    return judged


def _alike(measures: Sequence[Measure]) -> list[list[Measure]]:
    """Group measures of equal options: one set of forward passes serves them all."""
    groups: dict[str, list[Measure]] = {}
    for measure in measures:
        groups.setdefault(repr(sorted(measure.options.items())), []).append(measure)
    return list(groups.values())


def _one(
    measure: Measure, batch: JudgedBatch, maps: Tensor, explainer: Explainer | None
) -> Scores | None:
    run, options = measure.entry.fn, dict(measure.options)
    needs, x = measure.needs, batch.x
    if needs == ("model",):
        options["batch_size"] = batch.batch_size
        return run(batch.model, x, maps, list(batch.target), **options)
    if needs == ("masks",):
        nothing = torch.zeros(x.shape[-2:], dtype=torch.bool)
        masks = torch.stack([nothing if m is None else m for m in batch.masks])
        result = run(maps, masks.to(x.device), **options)
        reasons = tuple(
            "no mask" if m is None else r for m, r in zip(batch.masks, result.reasons, strict=True)
        )
        return replace(result, reasons=reasons)
    if needs == ("boxes",):
        return run(maps, batch.boxes, size=size_of(x), **options)
    if needs == ():
        return run(maps, **options)
    if explainer is None or needs == ("grid",):
        return None
    if needs == ("explainer", "target"):
        return run(
            lambda images, target: explainer(batch.model, images, target),
            x,
            torch.tensor(list(batch.target)),
            classes=batch.classes,
            **options,
        )
    if "target" in needs:
        options |= {"target": list(batch.target), "batch_size": batch.batch_size}
    if "model" in needs:
        return run(
            lambda model, images: explainer(model, images, batch.target), batch.model, x, **options
        )
    return run(lambda images: explainer(batch.model, images, batch.target), x, **options)
