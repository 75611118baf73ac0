"""The closed forms that the notebook on concentration rests on, held against hand values."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
c = SimpleNamespace(**runpy.run_path(str(NOTEBOOKS / "concentration.py")))


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_noise_shrinks_by_hand():
    # one feature of second moment 2, weight 3, noise 4: w' = 2 * 3 / (2 + 4) = 1
    assert c.ridge_of_noise(double(2.0)[:, None], double(3.0), double(4.0)).tolist() == [1.0]
    # two, correlated by 1/2, noise 1 on the first: [[2, .5], [.5, 1]] w' = [1.5, 1.5]
    # -> w' = (1.5 - .75, 3 - .75) / (2 - .25) = (3/7, 9/7)
    moment = double([1.0, 0.5], [0.5, 1.0])
    got = c.ridge_of_noise(moment, double(1.0, 1.0), double(1.0, 0.0))
    assert torch.allclose(got, double(3 / 7, 9 / 7), atol=1e-14)
    # and by Sherman and Morrison: w(0) = 1, (M^-1)_00 = 1 / (1 - 1/4) = 4/3, 1 / (1 + 4/3) = 3/7
    one = c.shrinkage(moment, double(1.0, 1.0), double(0.0, 0.0), 0, 1.0)
    assert float(one) == pytest.approx(3 / 7, abs=1e-14)


def test_many_variances_at_once_are_each_their_own():
    moment = double([1.0, 0.3], [0.3, 2.0])
    variances = double([0.0, 1.0], [2.0, 0.5])
    together = c.ridge_of_noise(moment, double(1.0, -1.0), variances)
    for row, variance in zip(together, variances, strict=True):
        assert torch.equal(row, c.ridge_of_noise(moment, double(1.0, -1.0), variance))


def test_descent_without_noise_is_least_squares():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(30, 3, generator=generator, dtype=torch.float64)
    w = double(1.0, -2.0, 0.5)
    got = c.descend_on_noise(
        x, x @ w, double(0, 0, 0), runs=2, steps=2000, rate=0.1, generator=generator
    )
    assert torch.allclose(got, w.expand(2, 3), atol=1e-10)


def test_descent_on_noise_is_the_ridge():
    generator = torch.Generator().manual_seed(0)
    x = torch.linalg.qr(torch.randn(20, 2, generator=generator, dtype=torch.float64))[0] * 20**0.5
    variances = double(0.5, 3.0)
    got = c.descend_on_noise(
        x, x.sum(1), variances, runs=64, steps=400, rate=0.05, generator=generator
    )
    error = got.std(0) / 8
    assert ((got.mean(0) - 1 / (1 + variances)).abs() < 4 * error).all()
    assert error.max() < 0.005


def test_attention_weighs_by_precision():
    assert torch.allclose(c.precision_weights(double(1, 2, 4)), double(4, 2, 1) / 7, atol=1e-15)
    learned = c.learn_softmax(torch.diag(double(1, 2, 4)), steps=2000)
    assert torch.allclose(learned, double(4, 2, 1) / 7, atol=1e-8)


def test_pruning_rules_by_hand():
    rows = torch.tensor([[0.5, 0.2, 0.3, 0.0], [0.1, 0.2, 0.3, 0.4]])
    kept = c.largest(2)(rows)
    assert kept.tolist() == [[True, False, True, False], [False, False, True, True]]
    factor = c.rescaled(c.largest(2))(rows)
    assert torch.allclose(rows * factor, torch.tensor([[0.625, 0, 0.375, 0], [0, 0, 3 / 7, 4 / 7]]))
    assert c.largest(9)(rows).all()
    drawn = c.anywhere(3)(torch.zeros(500, 4))
    assert (drawn.sum(1) == 3).all()
    assert ((drawn.double().mean(0) - 0.75).abs() < 4 * (0.75 * 0.25 / 500) ** 0.5).all()


def test_bags_hold_what_they_say():
    features, label, boat = c.bags(600, generator=torch.Generator().manual_seed(0), together=1.0)
    assert (boat.sum((1, 2)) == 4 * label).all()
    rows, columns = boat[label == 1][0].nonzero().T
    assert rows.max() - rows.min() == columns.max() - columns.min() == 1
    # boats always with water: the lower half's feature 1 has mean 1, standard error tiny
    lower = features[:, 1, 4:].mean((1, 2))
    assert (lower[label == 1] > 0.6).all()
    assert (lower[label == 0] < 0.4).all()
    hull = features[label == 1, 0].amax((1, 2)).mean()
    assert 2.8 < hull < 3.3
