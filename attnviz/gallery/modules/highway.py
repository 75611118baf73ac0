"""Highway layers: a gate chooses, unit by unit, between transforming and passing on.

Equation (Srivastava, Greff, Schmidhuber 2015, arXiv:1505.00387)::

    y = T(x) * H(x) + (1 - T(x)) * x,    T(x) = sigmoid(W_T x + b_T),   b_T < 0 at the start

T is attention over two branches: near 0 the unit is carried unchanged, near 1 it is computed anew.
"""

from __future__ import annotations

from collections.abc import Callable
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

    def forward(self, x: Tensor, *, keep: Callable[[Tensor], Tensor] | None = None) -> Highwayed:
        """(B, D) -> Highwayed.

        Args:
            x: (B, D).
            keep: pruning: given the gate, says which of its values stay (boolean, same shape);
                the others become 0, so that the unit only carries.
        """
        gate = torch.sigmoid(self.gate(x))
        kept = gate if keep is None else gate * keep(gate)
        return Highwayed(kept * F.relu(self.transform(x)) + (1 - kept) * x, gate)


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
        self.layers = nn.ModuleList(Highway(dim) for _ in range(layers))
        self.head = nn.Linear(dim, classes)

    def forward(
        self, image: Tensor, *, keep: Callable[[Tensor], Tensor] | None = None
    ) -> HighwayOutput:
        """(B, ...) flattened to (B, inputs) -> HighwayOutput; `keep` prunes every layer's gate."""
        x = F.relu(self.enter(image.flatten(1)))
        gates = []
        for layer in self.layers:
            x, gate = layer(x, keep=keep)
            gates.append(gate)
        return HighwayOutput(self.head(x), torch.stack(gates, 1))
