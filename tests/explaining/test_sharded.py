"""Weights that `fully_shard` (FSDP2) shares out among processes: the maps are the whole model's."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

import attnviz
from attnviz.errors import DataError, MethodError
from attnviz.shards import explain_dataset
from tests.test_processes import run

METHODS = ["gradcam", "cam", "layercam", "scorecam", "integrated_gradients", "rise"]


def net() -> nn.Sequential:
    torch.manual_seed(0)
    body = [nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU())
            for a, b in ((3, 8), (8, 12), (12, 16))]  # fmt: skip
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 6))


def process() -> None:
    """What each of the processes runs: maps of its half of the images, both ways."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (2,))
    whole, sharded = net(), net()
    for part in (*sharded[:3], sharded):
        fully_shard(part, mesh=mesh)
    draw = torch.randn(4, 3, 24, 24, generator=torch.Generator().manual_seed(1))
    x = draw[2 * dist.get_rank() :][:2]
    before = [p.to_local().clone() for p in sharded.parameters()]
    for options in ({}, {"classes": [0, 3]}):
        for method in METHODS:
            want = attnviz.explain(whole, x, method=method, **options)
            got = attnviz.explain(sharded, x, method=method, **options)
            torch.testing.assert_close(got.values, want.values, rtol=1e-5, atol=1e-7)
            assert not isinstance(got.values, DTensor)
            assert got.target == want.target
    sharded.reshard()  # any forward without a backward leaves the outermost weights gathered
    assert all(isinstance(p, DTensor) and p.grad is None for p in sharded.parameters())
    assert all(
        torch.equal(a, b.to_local()) for a, b in zip(before, sharded.parameters(), strict=True)
    )
    assert all(part.training for part in sharded.modules())
    with pytest.raises(MethodError, match="cannot be copied .* use a method that only runs"):
        attnviz.explain(sharded, x, method="lrp")
    with pytest.raises(DataError, match=r"sharded \(FSDP\).* Give the whole model"):
        explain_dataset(sharded, [], "never-made", preprocess="unit")
    dist.destroy_process_group()


@pytest.mark.slow
def test_maps_of_a_sharded_model_are_those_of_the_whole_one() -> None:
    for code, _, err in run([str(Path(__file__))]):
        assert code == 0, err


if __name__ == "__main__":
    sys.exit(process())
