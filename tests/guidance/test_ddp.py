"""Guidance in several processes: their gradients are those of one with the whole batch."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from attnviz import guidance
from attnviz.errors import GuidanceError
from tests.test_processes import run


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.Tanh(), nn.Conv2d(8, 8, 3),
        nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 6), nn.Tanh(),
        nn.Linear(6, 4),
    )  # fmt: skip


def loss(model: nn.Module, rows: slice, layer: str, method: str) -> torch.Tensor:
    draw = torch.Generator().manual_seed(1)
    x, y = torch.randn(8, 3, 16, 16, generator=draw), torch.randint(0, 4, (8,), generator=draw)
    masks = torch.zeros(8, 16, 16)
    masks[:, 3:9, 3:9] = 1
    seen = guidance.class_map(model, x[rows], y[rows], layer=layer, method=method)
    return F.cross_entropy(seen.logits, y[rows]) + guidance.losses.energy(seen, masks[rows]).total


def process() -> None:
    """What each of the processes runs: gradients on its half, beside those of the whole."""
    dist.init_process_group("gloo")
    rank, count = dist.get_rank(), dist.get_world_size()
    for layer, method in (("2", "gradcam"), ("4", "layercam")):
        one, ddp = net(), DistributedDataParallel(net())
        loss(one, slice(0, 8), layer, method).backward()
        for _ in range(2):
            ddp.zero_grad()
            loss(ddp, slice(8 * rank // count, 8 * (rank + 1) // count), layer, method).backward()
            for a, b in zip(ddp.parameters(), one.parameters(), strict=True):
                torch.testing.assert_close(a.grad, b.grad, rtol=1e-5, atol=1e-6)
    dist.destroy_process_group()


@pytest.mark.slow
def test_gradients_are_those_of_one_process() -> None:
    for code, _, err in run([str(Path(__file__))]):
        assert code == 0, err


def test_what_would_train_wrongly_is_refused() -> None:
    class FSDPModule:  # as `fully_shard` mixes it into a module's class
        pass

    class Sharded(FSDPModule, nn.Sequential):
        pass

    with pytest.raises(GuidanceError, match=r"sharded \(FSDP\).*DistributedDataParallel"):
        guidance.class_map(Sharded(*net()), torch.zeros(1, 3, 16, 16), [0])
    ddp = DistributedDataParallel.__new__(DistributedDataParallel)
    nn.Module.__init__(ddp)
    ddp.module = net()
    with pytest.raises(GuidanceError, match="fit trains in one process"):
        guidance.fit(ddp, [])


if __name__ == "__main__":
    sys.exit(process())
