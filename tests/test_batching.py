"""How many inputs a forward takes where it is left open, and what happens without memory."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import attnviz
from attnviz.batching import chosen_batch, in_chosen_batches
from attnviz.metrics import deletion


class Net(nn.Module):
    """Refuses batches above `room` as a device does, and remembers the sizes it was given."""

    def __init__(self, room: int = 10**6) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(4, 5)
        self.room, self.sizes = room, []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        self.sizes.append(len(x))
        return self.head(self.body(x).relu().mean((2, 3)))


@pytest.mark.parametrize(
    ("side", "batch"), [(16, 32), (64, 32), (224, 4), (384, 2), (1024, 1), (4096, 1)]
)
def test_batches_on_a_cpu_keep_layers_below_what_is_mapped_afresh(side: int, batch: int) -> None:
    assert chosen_batch(torch.empty(1, 3, side, side)) == batch
    assert chosen_batch({"mask": None, "pixels": torch.empty(7, 3, side, side)}) == batch
    assert chosen_batch(torch.empty(1, 3, side, side, device="meta")) == 32


def test_what_is_chosen_is_said_and_changes_no_map() -> None:
    x = torch.randn(9, 3, 224, 224)
    net = Net().eval()
    chosen = attnviz.explain(net, x, layer="body")
    assert max(net.sizes) == chosen.meta["batch_size"] == 4
    whole = attnviz.explain(net, x, layer="body", batch_size=9)
    assert whole.meta["batch_size"] == 9
    torch.testing.assert_close(chosen.values, whole.values, rtol=1e-6, atol=1e-8)
    assert chosen.target == whole.target


def test_memory_that_runs_out_halves_the_batch_until_it_fits() -> None:
    x = torch.randn(11, 3, 16, 16)
    net = Net(room=3).eval()
    maps = attnviz.explain(net, x, layer="body")
    assert maps.meta["batch_size"] == 2
    assert net.sizes[-6:] == [2, 2, 2, 2, 2, 1]
    alone = attnviz.explain(Net().eval(), x, layer="body", batch_size=1)
    torch.testing.assert_close(maps.values, alone.values, rtol=1e-6, atol=1e-8)


def test_a_size_that_was_asked_for_is_kept_and_other_errors_are_none_of_memory() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        attnviz.explain(Net(room=3).eval(), torch.randn(8, 3, 16, 16), layer="body", batch_size=8)
    with pytest.raises(torch.OutOfMemoryError):  # not even one fits
        attnviz.explain(Net(room=0).eval(), torch.randn(8, 3, 16, 16), layer="body")

    def broken(part: slice) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        in_chosen_batches(broken, 4, torch.zeros(4, 3))


def test_metrics_choose_too() -> None:
    x = torch.randn(2, 3, 224, 224)
    net, maps = Net().eval(), torch.rand(2, 7, 7)
    chosen = deletion(net, x, maps, target=1)
    assert max(net.sizes) == 4
    whole = deletion(net, x, maps, target=1, batch_size=32)
    torch.testing.assert_close(chosen.scores, whole.scores, rtol=1e-5, atol=1e-6)
