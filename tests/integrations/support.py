"""A small network and photos for the adapters."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

PHOTO = np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)
OPTIONS = {"layer": "body", "preprocess": "imagenet"}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Conv2d(3, 4, 3, 2)
        self.head = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x).relu().mean((2, 3)))


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    draw = torch.Generator().manual_seed(1)
    return [(torch.randn(3, 3, 16, 16, generator=draw), torch.arange(3)) for _ in range(2)]
