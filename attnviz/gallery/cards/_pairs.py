"""What the cards of attention between places share: one noisy scene, one network a layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..drawings.spatial import edge
from ._trained import centres, scene

NUMBER = 4
MADE = (
    "A network of one convolution, this layer and a linear head, trained for a few seconds to "
    "name the colours of two shapes (outlined) under heavy noise, which is left out under the maps"
)


def example() -> Tensor:
    """The scene, (1, 3, 40, 40)."""
    return scene(NUMBER)[0]


def queries() -> list[tuple[int, int]]:
    """A cell (row, column) in the middle of each object, and one of the background."""
    masks = scene(NUMBER)[2]
    free = (masks.amax(0).view(20, 2, 20, 2).amax((1, 3)) == 0).nonzero()
    return [*centres(masks), tuple(free[len(free) // 8].tolist())]


def outline(figure: Any) -> None:
    """Draw the objects' edges into every picture of a figure."""
    mask = scene(NUMBER)[2].amax(0).numpy()
    for ax in figure.axes:
        if ax.images:
            edge(ax, mask.shape, mask, colors="white", linewidths=0.8)


def on_own_kind(dense: Tensor, reach: Tensor | None = None) -> tuple[float, float]:
    """Attention of the objects' cells on cells of their own colour; what an even spread would give.

    Args:
        dense: (400, 400), rows summing to at most 1.
        reach: (400, 400), above 0 where a cell can look; None: everywhere.
    """
    label = scene(NUMBER)[1].flatten()
    same = (label[:, None] == label).double()
    even = torch.ones_like(same) if reach is None else (reach > 0).double()
    even = even / even.sum(1, keepdim=True)
    objects = label > 0
    share, chance = ((a * same).sum(1)[objects].mean() for a in (dense.double(), even))
    return float(share), float(chance)
