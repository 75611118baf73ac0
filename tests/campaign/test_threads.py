"""Eight threads that share a model, over everything there is: equal to one thread to the bit."""

from __future__ import annotations

import random
import threading
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import attnviz
from attnviz.attention.statistics import head_table
from attnviz.errors import AttnvizError, AttnvizWarning
from attnviz.methods import METHODS
from attnviz.models import LoadedModel
from attnviz.selftest import selftest

from ..support.attention_models import plain


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.AvgPool2d(4),
        nn.Conv2d(6, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 4),
    ).eval()  # fmt: skip


def jobs(model: nn.Module, x: torch.Tensor) -> dict[str, object]:
    """Return name -> a call whose tensors or text must be the same in every thread."""
    found = {}
    for name in METHODS.names():

        def call(name=name):
            maps = attnviz.explain(model, x, method=name, target=1)
            return maps.values

        found[name] = call
    found["tap"] = lambda: str(head_table(model, x).rows())
    found["inspect"] = lambda: str(attnviz.inspect(model, x))
    found["selftest"] = lambda: str(selftest(LoadedModel(model, "net"), x))
    return found


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", ["convolutions", "attention"])
def test_eight_threads_over_everything(kind, campaign):
    """Every method, the tap, inspection and selftest, by eight threads on a model in training."""
    # fused: the written-out one keeps its last weights in itself, which threads must not share
    model = network() if kind == "convolutions" else plain(double=False, fused=True)
    x = torch.rand(2, 3, 32, 32)
    model.train()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AttnvizWarning)
        wanted, work = {}, {}
        for name, job in jobs(model, x).items():
            try:
                wanted[name] = job()
            except AttnvizError:
                continue  # it does not apply to this model, and says so
            work[name] = job
        assert len(work) > 15
        order = random.Random(5)
        often = campaign(100)
        drawn = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
        calls = [order.choices(list(work), k=max(1, often // 8)) for _ in range(8)]
        wrong = []

        def run(names):
            for name in names:
                try:
                    got = work[name]()
                except Exception as error:
                    wrong.append(f"{name}: {type(error).__name__}: {error}")
                    continue
                want = wanted[name]
                same = torch.equal(got, want) if isinstance(want, torch.Tensor) else got == want
                if not same:
                    wrong.append(f"{name}: differs")

        threads = [threading.Thread(target=run, args=(names,)) for names in calls]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []
    assert torch.equal(torch.get_rng_state(), drawn[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == drawn[1:]
    assert all(m.training for m in model.modules())
    assert not any(
        m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in model.modules()
    )
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
