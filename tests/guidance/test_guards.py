"""When guidance acts, and when it is stopped."""

import pytest
import torch
from torch import nn

from attnviz.errors import GuidanceError
from attnviz.guidance import MassGuard, Strength, batchnorm_frozen


def test_strength_rises_from_zero():
    s = Strength(2.0, warmup=0.4, ramp=0.2)
    assert [s.at(p) for p in (0, 0.39, 0.4, 0.5, 0.6, 1)] == pytest.approx([0, 0, 0, 1, 2, 2])
    assert Strength(3.0, warmup=0, ramp=0).at(0) == 3
    with pytest.raises(GuidanceError, match="shares of training"):
        Strength(warmup=40)


def test_the_guard_halves_then_stops():
    guard = MassGuard(patience=3, smoothing=0.0)
    for mass in (9.0, 2.0, 1.0):
        assert guard.step(mass, active=False) == 1
    assert guard.reference == 1.0  # the mass just before guidance acts
    assert [guard.step(0.1, active=True, where="s") for _ in range(6)] == [
        1,
        1,
        0.5,
        0.5,
        0.5,
        0.25,
    ]
    assert guard.step(0.5, active=True) == 0.25
    assert guard.below == 0
    guard.step(0.01, active=True)
    guard.step(0.01, active=True)
    with pytest.raises(GuidanceError, match=r"step 9: the map is dying.*1\.0%"):
        guard.step(0.01, active=True, where="step 9")
    assert len(guard.events) == 2


def test_the_guards_memory_survives():
    a, b = MassGuard(patience=2), MassGuard(patience=2)
    for mass in (1.0, 1.1, 0.9):
        a.step(mass, active=False)
    a.step(0.001, active=True)
    b.load(a.state())
    assert b == a
    assert a.step(0.1, active=True) == b.step(0.1, active=True)


def test_no_reference_no_alarm_and_no_nan():
    off = MassGuard(mode="off", patience=1, smoothing=0.0)
    off.step(1.0, active=False)
    assert off.step(0.0, active=True) == 1
    with pytest.raises(GuidanceError, match="not finite"):
        MassGuard().step(float("nan"), active=True)
    with pytest.raises(GuidanceError, match="'back_off'"):
        MassGuard(mode="sometimes")


def test_batchnorm_is_frozen_inside_only():
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2), nn.Dropout(0.5)).train()
    model[0].eval()
    before = model[1].running_mean.clone()
    with pytest.raises(RuntimeError, match="boom"), batchnorm_frozen(model):
        assert [m.training for m in model] == [False, False, True]
        model(torch.randn(4, 3, 2, 2) + 5)
        raise RuntimeError("boom")
    assert [m.training for m in model] == [False, True, True]
    assert torch.equal(model[1].running_mean, before)
