"""Activation, gradient and head of a model in double precision, and what runs behind the layer."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import TargetError
from ..geometry import size_of
from ..hooks import eager, preserved, unwrap
from ..hooks.outputs import pick, put
from ..methods import Request, forward_pass
from ..methods.heads import LinearHead
from ..metrics.forward import untouched
from ..targets import logits_of

#: modules that are affine in evaluation mode, by class name
_AFFINE = (
    "Linear", "Conv", "AvgPool", "AdaptiveAvgPool", "Identity", "Flatten", "Unflatten", "Dropout",
    "DropPath", "BatchNorm", "ZeroPad", "ConstantPad", "FastAdaptiveAvgPool",
)  # fmt: skip


@dataclass(frozen=True)
class DoublePass:
    """One forward and backward pass in double precision.

    Attributes:
        activation: (B, C, h, w) at the layer.
        gradient: (B, C, h, w) of the logits explained, by automatic differentiation.
        logits: (B, classes).
        target: (B,) the predicted classes.
        head: the linear layer on the activation's mean, where the model ends in one.
        bias: (B,) the target's logit when the layer is silent (all zeros). Behind the last
            convolution of a network with one linear layer it is that layer's bias.
        behind: (name, class) of the modules that run behind the layer.
    """

    activation: Tensor
    gradient: Tensor
    logits: Tensor
    target: Tensor
    head: LinearHead | None
    bias: Tensor
    behind: tuple[tuple[str, str], ...]

    @property
    def score(self) -> Tensor:
        """(B,) the logits explained."""
        return self.logits.gather(1, self.target[:, None])[:, 0]

    @property
    def nonlinear(self) -> tuple[tuple[str, str], ...]:
        """The modules behind the layer that are not affine."""
        return tuple((n, k) for n, k in self.behind if not any(a in k for a in _AFFINE))


def double_copy(model: nn.Module) -> nn.Module:
    """Return a copy of a model in double precision on the CPU; the model itself is not touched."""
    return copy.deepcopy(unwrap(model)).to(device="cpu", dtype=torch.float64).eval()


class _Order:
    """Which leaf modules run after a layer has finished."""

    def __init__(self, model: nn.Module, layer: str) -> None:
        self.names: list[tuple[str, str]] = []
        self._done = False
        self._handles: list[Any] = []
        for name, module in model.named_modules():
            if name == layer:
                self._handles.append(module.register_forward_hook(self._reached))
            elif not any(True for _ in module.children()):
                self._handles.append(module.register_forward_hook(self._seen(name)))

    def _reached(self, *_: Any) -> None:
        self._done = True

    def _seen(self, name: str) -> Any:
        def hook(module: nn.Module, *_: Any) -> None:
            if self._done:
                self.names.append((name, type(module).__name__))

        return hook

    def __enter__(self) -> _Order:
        return self

    def __exit__(self, *error: Any) -> None:
        for handle in self._handles:
            handle.remove()


def _silent(model: nn.Module, x: Tensor, layer: str) -> Tensor:
    """Return the logits when a layer gives zeros."""

    def silence(module: nn.Module, _: Any, output: Any) -> Any:
        tensor, key = pick(output, layer)
        return put(output, key, torch.zeros_like(tensor))

    handle = dict(model.named_modules())[layer].register_forward_hook(silence)
    try:
        with eager(model), untouched(model):
            return logits_of(model(x)).detach()
    finally:
        handle.remove()


def read(model: nn.Module, x: Tensor, layer: str) -> DoublePass:
    """Return what one pass through a model shows at a layer.

    Args:
        model: in double precision, see `double_copy`.
        x: (B, C, H, W) in double precision.
        layer: dotted name.

    Raises:
        TargetError: the model is no classifier with logits (B, classes).
    """
    request = Request(model, x, len(x), layers=[layer], input_size=size_of(x))
    with eager(model), preserved(model), _Order(model, layer) as order:
        done = forward_pass(request, layers=[layer], heads=True)
        gradient = done.gradients(read_off=False)[layer]
    target = torch.tensor(done.columns[0].descriptions)
    if done.logits is None:
        raise TargetError("the model gives no logits (B, classes)")
    bias = _silent(model, x, layer).gather(1, target[:, None])[:, 0]
    return DoublePass(
        done.activations[layer].detach(),
        gradient,
        done.logits.detach(),
        target,
        done.heads.get(layer),
        bias,
        tuple(order.names),
    )
