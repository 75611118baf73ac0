"""Is the classifier one linear layer on the average of this activation? Found by looking."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from ..hooks import named_parts, own_thread


@dataclass(frozen=True)
class LinearHead:
    """logits = GAP(activation) @ weight.T + bias.

    Attributes:
        weight: (classes, C).
        bias: (classes,) or None.
    """

    weight: Tensor
    bias: Tensor | None

    def gradient(self, coefficients: Tensor, activation: Tensor) -> Tensor:
        """Return d score / d activation, for scores that are `coefficients` (B, classes) @ logits.

        Shape (B, C, h, w), the same at every position, without memory of its own for them.
        """
        weight = self.weight.to(activation.dtype)
        positions = activation.shape[2:]
        rows = coefficients.to(weight.dtype) @ weight / positions.numel()
        return rows.view(*rows.shape, *[1] * len(positions)).expand_as(activation)


class HeadProbe:
    """Remembers the last linear layer that ran; a forward hook on each, removed on leaving.

    A convolution of 1 x 1 is one: behind the average it does what a linear layer does.
    """

    def __init__(self, model: nn.Module) -> None:
        self._modules = [m for m in named_parts(model) if _is_linear(m)]
        self._last: tuple[nn.Linear | nn.Conv2d, Tensor, Tensor] | None = None
        self._handles: list[Any] = []

    def __enter__(self) -> HeadProbe:
        @own_thread
        def remember(module: nn.Linear | nn.Conv2d, inputs: Any, output: Any) -> None:
            if inputs and isinstance(inputs[0], Tensor):
                self._last = (module, _row(module, inputs[0]), _row(module, output))

        self._handles = [m.register_forward_hook(remember) for m in self._modules]
        return self

    def __exit__(self, *error: Any) -> None:
        for handle in self._handles:
            handle.remove()

    def head(self, activation: Tensor, logits: Tensor) -> LinearHead | None:
        """Return the head if the logits are one linear layer on the mean of `activation`.

        Args:
            activation: (B, C, h, w).
            logits: (B, classes).
        """
        if self._last is None:
            return None
        module, inputs, output = self._last
        if inputs.ndim != 2 or inputs.shape[1] != activation.shape[1]:
            return None
        if output.shape != logits.shape or not torch.equal(output, logits):
            return None
        mean = activation.detach().mean(tuple(range(2, activation.ndim)))
        # rounding of a mean of half or single precision, and no more
        tolerance = {torch.float64: 1e-10, torch.float32: 1e-4}.get(inputs.dtype, 2e-2)
        gap = (inputs.detach().to(mean.dtype) - mean).abs().max()
        if gap > tolerance * mean.abs().max().clamp_min(1e-30):
            return None
        return LinearHead(module.weight.flatten(1), module.bias)


def _is_linear(module: nn.Module) -> TypeGuard[nn.Linear | nn.Conv2d]:
    if isinstance(module, nn.Conv2d):
        return module.kernel_size == (1, 1) and module.groups == 1
    return isinstance(module, nn.Linear)


def _row(module: nn.Module, tensor: Tensor) -> Tensor:
    """Return (B, C, 1, 1) of a convolution as (B, C); what has positions left stays as it is."""
    pooled = isinstance(module, nn.Conv2d) and tensor.shape[2:] == (1, 1)
    return tensor.flatten(1) if pooled else tensor
