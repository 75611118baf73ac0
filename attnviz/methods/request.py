"""Every way to make a map, under one name each: `METHODS`.

A family is a package of methods that are run the same way. Its runner turns a `Request` (a model,
a batch, what to explain) into one `RawMaps` for each method and layer.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..registry import Entry, Registry

if TYPE_CHECKING:
    from torch import Tensor, nn

METHODS = Registry("method", "attnviz.methods.cam", "attnviz.methods.attention")

#: family -> "module:function" with the signature (Request, list[Entry]) -> list[RawMaps]
FAMILIES: dict[str, str] = {
    "cam": "attnviz.methods.cam._run:run",
    "attention": "attnviz.methods.attention._run:run",
}


@dataclass(frozen=True)
class Request:
    """What a family of methods is asked to explain.

    Attributes:
        model: the unwrapped model; the caller holds it in evaluation mode.
        inputs: the batch on the model's device, (B, ...); or a mapping of keyword arguments.
        batch: number of samples.
        target, classes, labels: as `attnviz.targets.resolve` takes them.
        layers: dotted names, or None for the default of the model.
        input_size: (H, W) of the input in pixels, None where it is no image.
        layout: how the layer's output is laid out, None to find it out.
        create_graph: keep the graph of the maps, for training.
        signed: keep negative values; None is each method's own default.
        options: the family's own options.
    """

    model: nn.Module
    inputs: Any
    batch: int
    target: Any = None
    classes: Sequence[Any] | None = None
    labels: Sequence[str] | None = None
    layers: Sequence[str] | None = None
    input_size: tuple[int, int] | None = None
    layout: Any = None
    create_graph: bool = False
    signed: bool | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def forward(self) -> Any:
        """Call the model on the inputs."""
        if isinstance(self.inputs, Mapping):
            return self.model(**self.inputs)
        return self.model(self.inputs)


@dataclass(frozen=True)
class RawMaps:
    """Maps as a method gives them, one row for each sample and class (sample-major).

    Attributes:
        values: (R, h, w), float32 or float64.
        score: (R,) what was explained, before any normalisation.
        targets: R JSON values; labels: R texts.
        units: what `values` are measured in.
    """

    method: str
    layer: str
    values: Tensor
    score: Tensor
    targets: tuple[Any, ...]
    labels: tuple[str, ...]
    units: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)


def runner(family: str) -> Callable[[Request, list[Entry]], list[RawMaps]]:
    """Return the function that runs the methods of a family."""
    module, _, name = FAMILIES[family].partition(":")
    return getattr(importlib.import_module(module), name)
