"""`class_map`: the map of a class as a part of the training graph, from the training forward."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import GuidanceError, MethodError
from ..geometry import size_of
from ..hooks import averaging, find_layers, is_sharded, unwrap
from ..margins import Margin
from ..methods import METHODS, Request
from ..methods.cam import apply_cam, read_layers
from ..registry import Entry
from ..targets import Column, Target


@dataclass(frozen=True, eq=False)
class ClassMap:
    """What one training forward gives: `logits, maps = class_map(...)`, and what losses read.

    Attributes:
        logits: (B, classes), with their graph.
        maps: (B, h, w) of the first layer, float32 or float64, signed, with their graph.
        layer: its dotted name.
        by_layer: the maps of all layers asked for, in the order asked.
        activation: (B, C, h, w), what the first layer computed; of maps of attention, which are
            made of several layers, the map (B, 1, h, w).
        model, images: what was run, and on what.
        targets: what is explained of each image: its class's margin, unless told otherwise.
        score: (B,) the explained score.
        exact: the maps were read off the classifier's weights (first-order gradients suffice).
    """

    logits: Tensor
    maps: Tensor
    layer: str
    by_layer: Mapping[str, Tensor] = field(repr=False)
    activation: Tensor = field(repr=False)
    model: nn.Module = field(repr=False)
    images: Tensor = field(repr=False)
    targets: Column = field(repr=False)
    score: Tensor = field(repr=False)
    exact: bool = False

    def __iter__(self) -> Iterator[Tensor]:
        """Yield logits and maps, so that a training loop unpacks the two."""
        yield self.logits
        yield self.maps

    def __getitem__(self, index: int) -> Tensor:
        """Return the logits (0) or the maps (1), as of a pair."""
        return (self.logits, self.maps)[index]

    @property
    def classes(self) -> Tensor:
        """The class index of each image, (B,) int64; targets that are no single class raise."""
        predicted = self.logits.argmax(1).tolist()
        indices = [
            predicted[row] if isinstance(t, Margin) and t.index is None else t.index
            for row, t in enumerate(self.targets.targets)
        ]
        if any(i is None for i in indices):
            raise GuidanceError(
                "this loss needs one class index for each image; the targets given are "
                f"{list(self.targets.labels)[:4]}: pass a tensor of class indices"
            )
        return torch.tensor(indices, device=self.logits.device)


def differentiable(method: str) -> Entry:
    """Return a method whose maps can be a part of the training graph.

    Raises:
        MethodError: an unknown name, or another kind of method, with those that can.
    """
    entry = METHODS.get(method)
    families = ("cam", "attention")
    if entry.family not in families or entry.meta["own_pass"]:
        known = [e.name for e in METHODS if e.family in families and not e.meta["own_pass"]]
        raise MethodError(
            f"method {entry.name!r} of the family {entry.family!r} is no function of activation "
            f"and gradient that can be differentiated; for training use one of {', '.join(known)}"
        )
    return entry


def class_map(
    model: nn.Module,
    x: Tensor,
    targets: Any = None,
    *,
    layer: str | nn.Module | Sequence[str | nn.Module] | None = None,
    against: str | None = "strongest",
    method: str = "gradcam",
    signed: bool = True,
    input_gradient: bool = False,
) -> ClassMap:
    """Return a batch's logits and class maps from one forward, both part of the training graph.

        logits, maps = guidance.class_map(model, x, y)
        loss = F.cross_entropy(logits, y) + guidance.losses.energy(maps, masks).total

    What is explained is the margin: the class against the others. A map of the class's logit alone
    can move onto the object while the decision stays where it was, in the other classes' logits.

    The model runs in the mode it is in, so dropout and BatchNorm are those of the user's own
    training step. Where the logits are one linear layer on the layer's average (ResNet,
    EfficientNet, ...), the gradient is read off the weights, and the map costs no second
    derivative; elsewhere the gradient of the part behind the layer is differentiated twice, with
    attention on the math kernel (no fused kernel has a second derivative). What lies before the
    layer trains through its activation either way.

    Args:
        model: the network in training; compiled or DataParallel-wrapped models run unwrapped.
            Under DistributedDataParallel gradients are averaged as of any other loss, so that a
            batch shared by processes trains as in one.
        x: preprocessed batch (B, C, H, W).
        targets: (B,) class indices, labels or `Target`s; one for all images; or None for each
            image's predicted class.
        against: what a class is set against: the "strongest" other, "all" others (the log odds),
            or None for its logit alone, the one-class map of GAIN and other mining. `Target`s and
            functions are explained as they are. A model with one output has its logit explained.
        layer: where the map is made; None is the model's default. Several give `by_layer`.
        method: any CAM of `attnviz methods` that is a function of activation and gradient, or a
            map of attention, such as "generic_relevance", "legrad", "rollout" or
            "gradient_attention"; these have no sign.
        signed: keep what speaks against the class. With False the map passes a ReLU, and where
            that cuts it there is no gradient to bring it back (a dead map).
        input_gradient: record the graph back to the pixels, which RRR needs.

    Returns:
        `ClassMap`; it unpacks to (logits, maps).

    Raises:
        MethodError: the method is no CAM; the gradient at this layer is zero by construction.
        GuidanceError: there is no graph to train on (`no_grad` or `inference_mode` around it).
        LayerNotFound, TargetError, LayoutError: as `explain`.
    """
    wrapper, model = averaging(model), unwrap(model)
    if is_sharded(model):
        raise GuidanceError(
            "this model's weights are sharded (FSDP) and gone when a map is differentiated; wrap "
            "the model in DistributedDataParallel for guidance, or train it without maps"
        )
    entry = differentiable(method)
    if torch.is_inference_mode_enabled() or not torch.is_grad_enabled():
        raise GuidanceError(
            "class_map was called under no_grad or inference_mode, where nothing can be trained; "
            "call it in the training step itself (for display use attnviz.explain)"
        )
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.ndim < 3 or not len(x):
        got = f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise GuidanceError(f"x is a preprocessed float batch (B, C, H, W) with B > 0, got {got}")
    # maps of attention are read of all layers, and frozen ones have no graph of their own
    if (input_gradient or entry.family == "attention") and not x.requires_grad:
        x = x.detach().requires_grad_(True)
    request = Request(
        model,
        x,
        len(x),
        target=_explained(targets, against, len(x)),
        layers=_names(model, layer),
        input_size=size_of(x),
        create_graph=True,
        wrapper=wrapper,
    )
    if entry.family == "attention":
        return _of_attention(request, entry)
    read = read_layers(request, [entry])
    gradients = read.gradients(0) if entry.meta["needs_gradient"] else {}
    # products and sums of a map underflow in half precision, so autocast ends here
    with torch.autocast(x.device.type, enabled=False):
        maps = {
            name: apply_cam(entry, activation, gradients.get(name), signed=signed)
            for name, activation in read.activations.items()
        }
    first = next(iter(maps))
    if read.logits is None:
        raise GuidanceError("the model's output holds no logits, which guidance explains")
    return ClassMap(
        logits=read.logits,
        maps=maps[first],
        layer=first,
        by_layer=maps,
        activation=read.activations[first],
        model=model,
        images=x,
        targets=read.columns[0],
        score=read.scores[0],
        exact=bool(read.heads) and len(read.heads) == len(maps),
    )


def _of_attention(request: Request, entry: Entry) -> ClassMap:
    """Return maps of attention in the training graph; there is no one activation behind them."""
    from ..methods.attention.training import attention_maps

    done, maps = attention_maps(request, entry)
    first = next(iter(maps))
    if done.logits is None:
        raise GuidanceError("the model's output holds no logits, so there is no class to guide")
    return ClassMap(
        logits=done.logits,
        maps=maps[first],
        layer=first,
        by_layer=maps,
        activation=maps[first][:, None],
        model=request.model,
        images=request.inputs,
        targets=done.columns[0],
        score=done.scores[0],
    )


def _names(model: nn.Module, layer: Any) -> list[str] | None:
    if layer is None:
        return None
    return list(find_layers(model, layer))


def _explained(targets: Any, against: str | None, batch: int) -> Any:
    """Turn classes into margins; what is a target or a function already is left alone."""
    if against is None:
        return targets
    made: dict[Any, Margin] = {}  # one a class: a batch's targets are bound and scored together

    def margin(target: Any) -> Any:
        if isinstance(target, Target) or callable(target):
            return target
        name = target.__index__() if hasattr(target, "__index__") else target
        return made.setdefault(name, Margin(name, against))

    if targets is None:
        return Margin(None, against)
    if isinstance(targets, str | Target) or callable(targets) or not hasattr(targets, "__len__"):
        return margin(targets)
    return [margin(t) for t in (targets.tolist() if isinstance(targets, Tensor) else targets)]
