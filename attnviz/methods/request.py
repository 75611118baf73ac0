"""Every way to make a map, under one name each: `METHODS`.

A family is a package of methods that are run the same way. Its runner turns a `Request` (a model,
a batch, what to explain) into one `RawMaps` for each method and layer.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import MethodError, did_you_mean
from ..hooks import without_checkpointing
from ..inputs import Given, Inputs
from ..registry import Entry, Registry

if TYPE_CHECKING:
    from torch import Tensor, nn

METHODS = Registry(
    "method",
    "attnviz.methods.cam",
    "attnviz.methods.attention",
    "attnviz.methods.perturbation",
    "attnviz.methods.attribution",
    plugins="attnviz.methods",
)

#: family -> "module:function" with the signature (Request, list[Entry]) -> list[RawMaps]
FAMILIES: dict[str, str] = {
    "cam": "attnviz.methods.cam._run:run",
    "attention": "attnviz.methods.attention._run:run",
    "perturbation": "attnviz.methods.perturbation._run:run",
    "attribution": "attnviz.methods.attribution._run:run",
}


@dataclass(frozen=True)
class Request:
    """What a family of methods is asked to explain.

    Attributes:
        model: the unwrapped model; the caller holds it in evaluation mode.
        inputs: the batch on the model's device, (B, ...); a tuple of several inputs; or a mapping
            of keyword arguments.
        batch: number of samples.
        target, classes, labels: as `attnviz.targets.resolve` takes them.
        layers: dotted names, or None for the default of the model.
        input_size: (H, W) of the input in pixels, (T,) of a signal, (D, H, W) of a volume or
            video; None where it is none of these.
        layout: how the layer's output is laid out, None to find it out.
        create_graph: keep the graph of the maps, for training.
        signed: keep negative values; None is each method's own default.
        call: which call of a layer that runs several times: 0, 1, ... or -1; None expects one.
        options: the methods' own options.
        wrapper: what is called in the model's place: its `DistributedDataParallel`, which sets up
            the averaging of gradients.
    """

    model: nn.Module
    inputs: Any
    batch: int
    target: Any = None
    classes: Sequence[Any] | None = None
    labels: Sequence[str] | None = None
    layers: Sequence[str] | None = None
    input_size: tuple[int, ...] | None = None
    layout: Any = None
    create_graph: bool = False
    signed: bool | None = None
    call: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    wrapper: nn.Module | None = None

    @property
    def example(self) -> Inputs:
        """A few of the inputs, for what has to be found out by running the model."""
        return Given(self.inputs, self.batch).part(0, 4)

    def forward(self) -> Any:
        """Call the model on the inputs, without gradient checkpointing.

        What is read on the way is part of the graph; a layer that is computed again in the
        backward pass would be another one.
        """
        with without_checkpointing(self.model):
            return self._call()

    def _call(self) -> Any:
        model = self.wrapper or self.model
        if isinstance(self.inputs, Mapping):
            return model(**self.inputs)
        if isinstance(self.inputs, tuple):
            return model(*self.inputs)
        return model(self.inputs)


@dataclass(frozen=True)
class RawMaps:
    """Maps as a method gives them, one row for each sample and class (sample-major).

    Attributes:
        values: (R, h, w), float32 or float64; (R, t) of signals, (R, d, h, w) of volumes.
        score: (R,) what was explained, before any normalisation.
        targets: R JSON values; labels: R texts.
        logits: (R, classes) of the images, None where the model gives none.
        probability: (R,) of the classes explained, None where there is none.
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
    logits: Tensor | None = None
    probability: Tensor | None = None


#: options that a family's runner takes for its methods, and whether for those that run the model
#: themselves, too
_OF_FAMILY = {
    # average the maps of six copies of the picture; a principal component for the sum of channels
    "cam": {"augment": True, "eigen_smooth": False},
    "attention": {"grid": False},  # (rows, columns) of the patches
    # bytes that a pass may take; which of several inputs is explained
    "perturbation": {"budget": True, "vary": True},
    "attribution": {"budget": True, "vary": True},
}

#: what other tools, and other functions of this one, call the arguments of `explain`
_ELSEWHERE = {
    "aug_smooth": "augment", "cam": "method", "category": "target", "class_idx": "target",
    "class_index": "target", "image": "images", "index": "target",
    "input": "images", "input_tensor": "images", "inputs": "images", "layer_name": "layer",
    "layers": "layer", "processor": "preprocess", "target_category": "target",
    "target_class": "target", "target_layer": "layer", "target_layers": "layer",
    "transform": "preprocess", "use_cuda": "device", "x": "images", "y": "target",
    "relu": "signed",
}  # fmt: skip


def taken_by(entry: Entry, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the options given that a method's function takes."""
    known = entry.options if options else ()
    return {name: value for name, value in options.items() if name in known}


def rectifies(entry: Entry, signed: bool | None) -> bool:
    """Return whether the negative part of a method's maps is to be dropped.

    Args:
        entry: the method.
        signed: as in `Request`.

    Raises:
        MethodError: the method has one form only, and `signed` is not None.
    """
    own = entry.meta["signed"]
    if own is None and signed is not None:
        raise MethodError(
            f"method {entry.name!r} has no {'' if signed else 'un'}signed form; leave signed=None"
        )
    return own is not None and not (own if signed is None else signed)


def check_options(
    options: Mapping[str, Any], entries: Sequence[Entry], arguments: Sequence[str] = ()
) -> None:
    """Raise for an option that none of the methods takes.

    Args:
        options: as given by the user.
        entries: the methods chosen.
        arguments: names of the caller's own arguments, which may have been meant.

    Raises:
        MethodError: it names the nearest argument or option.
    """
    if not options:
        return
    names = {name for entry in entries for name in entry.options}
    for entry in entries:
        for name, always in _OF_FAMILY.get(entry.family, {}).items():
            if always or not entry.meta.get("own_pass"):
                names.add(name)
    known = sorted(names)
    for name, value in options.items():
        if name not in known:
            if _ELSEWHERE.get(name) in (*known, *arguments):
                meant = f"; use {_ELSEWHERE[name]}="
            else:
                meant = did_you_mean(name, [*known, *arguments])
            of = f"option of {', '.join(e.name for e in entries)}{meant or '.'}"
            here = f"Options here: {', '.join(known) or 'none'}"
            raise MethodError(
                f"{name!r} is no argument, and no {of} {here}",
                command=f"{name!r} is no {of} {here}",
            )
        for entry in entries:
            default = inspect.signature(entry.fn).parameters.get(name)
            usual = default and default.default
            if isinstance(value, str) and isinstance(usual, int | float):
                kind = "true or false" if isinstance(usual, bool) else "a number"
                raise MethodError(f"{name}={value!r}: {entry.name} takes {kind}, such as {usual}")


def check_compiling(entries: Sequence[Entry], create_graph: bool) -> None:
    """Raise for methods that compiled code would not do for.

    Raises:
        MethodError: they change or read what a model runs inside, or are trained on.
    """
    inside = [e.name for e in entries if e.family not in ("cam", "perturbation")]
    what = f"{', '.join(inside)}: these methods change or read what a model runs inside"
    if inside:
        raise MethodError(
            f"compile=True is not for {what}; leave it out",
            command=f"--compile is not for {what}; leave it out",
        )
    if create_graph:
        raise MethodError("compile=True is not for training on maps (create_graph); leave it out")


def runner(family: str) -> Callable[[Request, list[Entry]], list[RawMaps]]:
    """Return the function that runs the methods of a family."""
    module, _, name = FAMILIES[family].partition(":")
    return getattr(importlib.import_module(module), name)
