"""Small networks in double precision, and scales frozen so that gradients can be checked."""

import pytest
import torch
from torch import nn

import attnviz.guidance.losses as losses_package  # noqa: F401  (registers every loss)
from attnviz.guidance import normalising


class GapNet(nn.Module):
    """Two convolutions, global average pooling, one linear layer."""

    def __init__(self, classes=3, channels=4, batchnorm=False):
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(channels) if batchnorm else nn.Identity()
        self.body = nn.Conv2d(channels, channels, 3, padding=1)
        self.act = nn.Softplus()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(channels, classes)

    def forward(self, x):
        x = self.act(self.norm(self.stem(x)))
        return self.classify(self.act(self.body(x)))

    def classify(self, x):
        return self.head(self.pool(x).flatten(1))


class TailNet(GapNet):
    """A classifier of two layers: nothing to be read off the weights."""

    def __init__(self, classes=3, channels=4):
        super().__init__(classes, channels)
        self.hidden = nn.Linear(channels * 9, 5)
        self.pool = nn.AdaptiveAvgPool2d(3)
        self.head = nn.Linear(5, classes)

    def classify(self, x):
        return self.head(torch.tanh(self.hidden(self.pool(x).flatten(1))))


@pytest.fixture
def gap_net():
    torch.manual_seed(3)
    return GapNet().double()


@pytest.fixture
def tail_net():
    torch.manual_seed(4)
    return TailNet().double()


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(3, 3, 12, 12, generator=generator, dtype=torch.float64)
    return x, torch.tensor([0, 2, 1])


@pytest.fixture
def masks():
    m = torch.zeros(3, 12, 12)
    m[0, 2:7, 3:9] = 1
    m[1, 5:11, 1:6] = 1
    m[2, 0:4, 6:12] = 1
    return m


@pytest.fixture
def frozen_scale(monkeypatch):
    """Hold every detached scale at its first value, call by call: then the loss is its own
    derivative's function, and finite differences see what autograd sees."""
    state = {"first": [], "call": 0, "recording": True}
    real = normalising.map_scale

    def scale(maps, *, floor=normalising.FLOOR):
        if state["recording"]:
            state["first"].append(real(maps, floor=floor))
            return state["first"][-1]
        value = state["first"][state["call"]]
        state["call"] += 1
        return value

    monkeypatch.setattr(normalising, "map_scale", scale)

    def again():
        state["recording"] = state["recording"] and not state["first"]
        state["call"] = 0

    return again
