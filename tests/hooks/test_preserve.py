"""preserved: modes, buffers and random state come back, from several threads too."""

import threading

import pytest
import torch
from torch import nn

from attnviz.hooks import preserved


class Restless(nn.Module):
    """Changes its buffers and draws random numbers, in evaluation mode too."""

    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        self.register_buffer("last", torch.zeros(3))
        self.norm = nn.BatchNorm1d(3)

    def train(self, mode=True):
        if mode:
            self.woken = True  # a train() with a side effect must not be called
        return super().train(mode)

    def forward(self, x):
        self.count += 1
        self.last = x.mean(0)
        return self.norm(x) + torch.rand_like(x)


def test_everything_comes_back():
    model = Restless()
    model.norm.eval()
    last = model.last
    state = torch.get_rng_state()
    with preserved(model):
        assert not any(m.training for m in model.modules())
        model(torch.randn(4, 3))
        assert model.count == 1
    assert [m.training for m in model.modules()] == [True, False]
    assert model.count == 0
    assert model.last is last
    assert torch.equal(model.last, torch.zeros(3))
    assert torch.equal(state, torch.get_rng_state())
    assert not hasattr(model, "woken")


def test_training_statistics_come_back():
    model = nn.BatchNorm1d(3)
    with preserved(model, eval_mode=False):
        assert model.training
        model(torch.randn(4, 3) + 5)
        assert model.running_mean.abs().sum() > 0
    assert torch.equal(model.running_mean, torch.zeros(3))
    assert model.num_batches_tracked == 0


def test_a_graph_that_saved_a_buffer_survives():
    model = nn.BatchNorm1d(3).eval()
    x = torch.randn(4, 3, requires_grad=True)
    y = model(x)
    with preserved(model):
        model(x)
    y.sum().backward()
    torch.testing.assert_close(x.grad, torch.full((4, 3), (1 + 1e-5) ** -0.5))


def test_exception_and_nesting_and_parts():
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    with pytest.raises(ZeroDivisionError), preserved(model):
        with preserved(model[1]):
            raise ZeroDivisionError
    assert all(m.training for m in model.modules())
    # one part is let go after the whole
    whole, part = preserved(model), preserved(model[1])
    whole.__enter__()
    part.__enter__()
    whole.__exit__(None, None, None)
    assert model.training
    assert not model[1].training
    part.__exit__(None, None, None)
    assert model[1].training


def test_many_threads():
    model = Restless()
    barrier = threading.Barrier(8)
    seen = []

    def work():
        barrier.wait()
        for _ in range(30):
            with preserved(model):
                model(torch.randn(2, 3))
                seen.append(model.training)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [False] * 240
    assert all(m.training for m in model.modules())
    assert model.count == 0
