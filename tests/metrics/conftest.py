"""Oracles: models whose perfect explanation is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn


class Linear(nn.Module):
    """logit_k = w_k . x: the contribution of a pixel against a baseline b is exactly w (x - b)."""

    def __init__(self, channels: int = 3, size: int = 8, classes: int = 4) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(5)
        self.w = nn.Parameter(
            torch.randn(classes, channels, size, size, generator=draw, dtype=torch.float64)
        )

    def forward(self, x: Tensor) -> Tensor:
        return (x[:, None] * self.w).sum((2, 3, 4))

    def contributions(self, x: Tensor, cls: int, baseline: Tensor | float = 0.0) -> Tensor:
        """(B, H, W): what each pixel adds to the logit, all channels together."""
        return (self.w[cls] * (x - baseline)).sum(1).detach()


class Planted(nn.Module):
    """Reads one patch of the image and nothing else."""

    def __init__(self, rows: slice = slice(2, 5), columns: slice = slice(3, 6)) -> None:
        super().__init__()
        self.rows, self.columns = rows, columns

    def forward(self, x: Tensor) -> Tensor:
        seen = x[:, :, self.rows, self.columns].mean((1, 2, 3))
        return torch.stack([seen, -seen], 1)

    def map(self, x: Tensor) -> Tensor:
        found = x.new_zeros(len(x), *x.shape[-2:])
        found[:, self.rows, self.columns] = 1
        return found


class Counting(nn.Module):
    """Counts the images that pass through, and remembers the last batch."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.images = 0
        self.batches: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.images += len(x)
        self.batches.append(x.clone())
        return self.model(x)


@pytest.fixture
def linear() -> Linear:
    return Linear()


@pytest.fixture
def planted() -> Planted:
    return Planted()


@pytest.fixture
def counting() -> type[Counting]:
    return Counting


@pytest.fixture
def photos() -> Tensor:
    """Five double-precision inputs (5, 3, 8, 8)."""
    return torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.fixture
def convnet() -> nn.Module:
    """A small network in double precision, with BatchNorm and dropout, left in training mode."""
    torch.manual_seed(3)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.Conv2d(8, 12, 3, stride=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(12, 5),
    ).double()
    net[1].running_mean.normal_()
    net[1].running_var.uniform_(0.5, 2)
    return net.train()
