"""What every guidance loss is: a function of a batch's maps and annotation giving named parts."""

from __future__ import annotations

import functools
import inspect
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from ...errors import GuidanceError
from ...geometry import size_of
from ...registry import Registry
from ..annotation import Annotation, as_annotation
from ..class_maps import ClassMap

#: every guidance loss; one file in `attnviz/guidance/losses/` adds one
LOSSES = Registry(
    "guidance loss", "attnviz.guidance.losses", error=GuidanceError, plugins="attnviz.losses"
)


@dataclass(frozen=True, eq=False)
class LossParts:
    """A loss and what it is made of.

    Attributes:
        total: () the sum of the parts, with its graph.
        parts: name -> (), with their graphs.
        count: how many images of the batch are annotated and took part.
        stats: name -> number, for logs only.
    """

    total: Tensor
    parts: Mapping[str, Tensor]
    count: int
    stats: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))

    def log(self) -> dict[str, float]:
        """Return parts and stats as plain numbers."""
        return {k: float(v.detach()) for k, v in self.parts.items()} | dict(self.stats)


@dataclass(frozen=True, eq=False)
class LossInput:
    """What a loss reads: maps in full precision, the annotation on their grid, and the rest."""

    maps: Tensor
    grid: Annotation
    annotation: Annotation
    seen: ClassMap | None

    @property
    def rows(self) -> Tensor:
        """(B,) bool: the images that take part."""
        return self.grid.present

    def need(self, what: str) -> ClassMap:
        """Return the `ClassMap`; losses that run the model again cannot do with maps alone."""
        if self.seen is None:
            raise GuidanceError(
                f"this loss needs {what}, and was given maps alone; pass what class_map returned: "
                "seen = guidance.class_map(model, x, y); loss(seen, masks)"
            )
        return self.seen


def mean_over(per_image: Tensor, annotation: Annotation, rows: Tensor | None = None) -> Tensor:
    """Return sum(weight * loss) / (number of annotated images): a zero with graph if there is none.

    Weights are factors: halving all of them halves the loss.
    """
    rows = annotation.present if rows is None else rows
    # torch.where, not a product: 0 * inf of an unannotated image would be NaN
    kept = torch.where(rows, per_image * annotation.weights, torch.zeros_like(per_image))
    return kept.sum() / rows.sum().clamp_min(1)


def register_loss(
    name: str,
    *,
    paper: str,
    needs: tuple[str, ...] = (),
    annotated: bool = True,
    mapped: bool = True,
    aliases: tuple[str, ...] = (),
    passes: str | None = None,
) -> Callable[[Callable[..., dict[str, Tensor]]], Callable[..., LossParts]]:
    """Register a loss written as `fn(scene, **options) -> {part: ()}`.

    What is registered and returned takes `(maps, annotation, **options)`: maps (B, h, w) or a
    `ClassMap`; annotation as `Annotation`, masks (B, H, W), a list with None for images without,
    or None.

    Args:
        name: what users call it.
        paper: its source.
        needs: what it needs beyond maps: "forward" (runs the model again), "input_gradient",
            "layers" (maps of several layers), "adversary", "one_class" (mines the evidence of the
            class alone, and not the margin's).
        annotated: False where it needs no annotation and takes every image.
        mapped: False where the loss is not a function of the map.
        aliases: other names.
        passes: the loss whose options it takes too.
    """

    def decorate(fn: Callable[..., dict[str, Tensor]]) -> Callable[..., LossParts]:
        @functools.wraps(fn)
        def loss(maps: Tensor | ClassMap, annotation: Any = None, /, **options: Any) -> LossParts:
            seen = maps if isinstance(maps, ClassMap) else None
            values = maps.maps if isinstance(maps, ClassMap) else maps
            _check_maps(values)
            given = as_annotation(annotation, values, None if seen is None else seen.images)
            with torch.autocast(values.device.type, enabled=False):
                values = (
                    values if values.dtype in (torch.float32, torch.float64) else values.float()
                )
                grid = given.at(size_of(values), values)
                scene = LossInput(values, grid, given, seen)
                parts = fn(scene, **options)
            total = functools.reduce(operator.add, parts.values())
            count = len(values) if not annotated else int(scene.rows.sum())
            return LossParts(total, MappingProxyType(parts), count, _mass(scene))

        return LOSSES.register(
            name, paper=paper, aliases=aliases, needs=needs, annotated=annotated, mapped=mapped,
            passes=passes,
        )(loss)  # fmt: skip

    return decorate


def option_names(name: str) -> list[str]:
    """Return the options of a loss that are plain values, in the order it lists them."""
    entry = LOSSES.get(name)
    listed = inspect.signature(entry.fn).parameters.values()  # those of the function it wraps
    own = [p.name for p in listed if p.kind is p.KEYWORD_ONLY]
    more = option_names(entry.meta["passes"]) if entry.meta["passes"] else []
    return [n for n in [*own, *more] if n not in ("generator", "adversary")]


def _mass(scene: LossInput) -> Mapping[str, float]:
    """The positive mass of the maps: what a collapsing map loses first."""
    with torch.no_grad():
        positive = scene.maps.detach().relu().mean((-2, -1))
        rows = scene.rows if bool(scene.rows.any()) else torch.ones_like(scene.rows)
        return MappingProxyType({"mass": float(positive[rows].mean())})


def _check_maps(maps: Any) -> None:
    if not isinstance(maps, Tensor) or maps.ndim != 3 or not maps.is_floating_point():
        got = (
            f"{maps.dtype} {tuple(maps.shape)}" if isinstance(maps, Tensor) else type(maps).__name__
        )
        raise GuidanceError(
            f"maps are a float tensor (B, h, w), or what class_map returned; got {got}"
        )
