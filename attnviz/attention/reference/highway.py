"""Highway layers: a gate chooses, unit by unit, between transforming and passing on.

Equation (Srivastava, Greff, Schmidhuber 2015, arXiv:1505.00387)::

    y = T(x) * H(x) + (1 - T(x)) * x,    T(x) = sigmoid(W_T x + b_T),   b_T < 0 at the start

T is attention over two branches: near 0 the unit is carried unchanged, near 1 it is computed anew.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Highwayed(NamedTuple):
    """One highway layer's output and gate."""

    output: Tensor
    """(B, D)."""
    gate: Tensor
    """(B, D): T, each in (0, 1)."""


class HighwayOutput(NamedTuple):
    """What the classifier returns."""

    logits: Tensor
    """(B, classes)."""
    gates: Tensor
    """(B, layers, D)."""


class Highway(nn.Module):
    """One highway layer.

    Args:
        dim: D.
        bias: b_T at the start.
    """

    def __init__(self, dim: int, *, bias: float = -2.0) -> None:
        super().__init__()
        self.transform = nn.Linear(dim, dim)
        self.gate = nn.Linear(dim, dim)
        nn.init.constant_(self.gate.bias, bias)

    def forward(self, x: Tensor) -> Highwayed:
        """(B, D) -> Highwayed."""
        gate = torch.sigmoid(self.gate(x))
        return Highwayed(gate * F.relu(self.transform(x)) + (1 - gate) * x, gate)


class HighwayClassifier(nn.Module):
    """Many thin highway layers between two linear ones.

    Args:
        inputs: input size.
        classes: number of classes.
        dim: D.
        layers: number of highway layers.
    """

    def __init__(
        self, *, inputs: int = 64, classes: int = 10, dim: int = 32, layers: int = 20
    ) -> None:
        super().__init__()
        self.enter = nn.Linear(inputs, dim)
        self.layers = nn.ModuleList(Highway(dim, bias=-2.0) for _ in range(layers))
        self.head = nn.Linear(dim, classes)

    def forward(self, image: Tensor, *, closed: frozenset[int] = frozenset()) -> HighwayOutput:
        """(B, ...) flattened to (B, inputs) -> HighwayOutput.

        Args:
            image: (B, ...).
            closed: layers whose gate is forced to 0, so that they only carry (a lesion).
        """
        x = F.relu(self.enter(image.flatten(1)))
        gates = []
        for index, layer in enumerate(self.layers):
            step = layer(x)
            gates.append(step.gate)
            x = x if index in closed else step.output
        return HighwayOutput(self.head(x), torch.stack(gates, 1))
