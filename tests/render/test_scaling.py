"""Scales by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from attnviz.errors import DataError
from attnviz.render.scaling import Scale, normalise


def maps(*rows):
    return torch.tensor(rows)[:, None, :]


def test_modes_by_hand():
    values = maps([-2.0, 0.0, 6.0], [1.0, 2.0, 3.0])
    assert normalise(values, "minmax")[:, 0].tolist() == [[0.0, 0.25, 1.0], [0.0, 0.5, 1.0]]
    assert torch.allclose(
        normalise(values, "max")[:, 0], torch.tensor([[0, 0, 1], [1 / 3, 2 / 3, 1]])
    )
    assert torch.allclose(
        normalise(values, "signed")[:, 0], torch.tensor([[-1 / 3, 0, 1], [1 / 3, 2 / 3, 1]])
    )
    assert normalise(values, "none") is values
    shared = normalise(values, "minmax", shared=True)[:, 0]
    assert shared.tolist() == [[0.0, 0.25, 1.0], [0.375, 0.5, 0.625]]
    assert torch.equal(normalise(values, "max", shared=True)[1, 0], values[1, 0] / 6)


@pytest.mark.parametrize("mode", ["minmax", "max", "signed"])
@pytest.mark.parametrize("level", [0.0, 0.3, -5.0, 1e-20])
def test_flat_maps_stay_flat(mode, level):
    noise = torch.rand(1, 5, 5) * 1e-6 * max(abs(level), 1e-9)
    assert torch.equal(normalise(level + noise, mode), torch.zeros(1, 5, 5))


def test_small_but_real_maps_are_not_called_flat():
    values = torch.rand(1, 5, 5) * 1e-8  # a probability's gradient may be this small
    assert normalise(values, "minmax").amax() == 1
    assert normalise(values, "minmax", floor=1e-6).amax() == 0


def test_negative_maps_have_nothing_above_zero():
    assert torch.equal(normalise(maps([-3.0, -1.0]), "max"), torch.zeros(1, 1, 2))


def test_nan_is_left_out_and_stays():
    out = normalise(maps([float("nan"), 1.0, 3.0]), "minmax")[0, 0]
    assert torch.isnan(out[0])
    assert out[1:].tolist() == [0.0, 1.0]


def test_order_is_kept_and_batch_mates_do_not_matter():
    values = torch.randn(4, 6, 6, dtype=torch.float64)
    for mode in ("minmax", "signed"):
        out = normalise(values, mode)
        assert torch.equal(out.flatten(1).argsort(1), values.flatten(1).argsort(1))
        assert torch.equal(out[2:3], normalise(values[2:3], mode))


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("mode", ["minmax", "max", "signed", "none"])
def test_gradients_pass_through_the_ends_too(mode, shared):
    values = torch.randn(2, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: normalise(v, mode, shared=shared) ** 2, values)


def test_a_flat_map_has_no_gradient_rather_than_nan():
    values = torch.full((1, 2, 2), 0.3, requires_grad=True)
    (grad,) = torch.autograd.grad(normalise(values, "minmax").sum(), values)
    assert torch.equal(grad, torch.zeros_like(grad))


def test_unknown_mode():
    with pytest.raises(DataError, match="did you mean 'minmax'"):
        normalise(torch.rand(1, 2, 2), "min-max")


@pytest.mark.parametrize("mode", ["minmax", "max", "signed"])
def test_scale_agrees_with_normalise(mode):
    values = torch.randn(3, 4, 4)
    shared = Scale.of(list(values), mode)
    expected = normalise(values, mode, shared=True).numpy()
    if mode == "signed":
        expected = (expected + 1) / 2
    for value, want in zip(values.numpy(), expected, strict=True):
        assert np.allclose(shared.apply(value), want, atol=1e-6)


def test_scale_chooses_signed_for_real_negatives_only():
    assert Scale.of([np.array([[-1.0, 2.0]])]).mode == "signed"
    assert Scale.of([np.array([[-1e-6, 2.0]])]).mode == "minmax"
    assert Scale.of([np.array([[-1.0, 2.0]])]).low == -2.0


def test_scale_draws_nothing_for_a_flat_map_beside_others():
    busy, flat = np.array([[0.0, 4.0]]), np.array([[2.0, 2.0]])
    scale = Scale.of([busy, flat])
    assert scale.apply(busy).tolist() == [[0.0, 1.0]]
    assert np.isnan(scale.apply(flat)).all()
    assert Scale.of([flat]).flat


def test_scale_of_what_cannot_be_drawn():
    for bad in ([], [np.array([[np.inf, 1.0]])], [np.full((2, 2), np.nan)]):
        with pytest.raises(DataError):
            Scale.of(bad)


def test_percentiles_are_numpys_and_what_lies_beyond_is_cut():
    values = torch.arange(101.0).view(1, 1, 101)
    scaled = normalise(values, "percentile:10,60")[0, 0]
    expected = (np.arange(101.0) - 10) / 50
    assert np.allclose(scaled, np.clip(expected, 0, 1), atol=1e-6)
    scale = Scale.of([values[0].numpy()], "percentile:10,60")
    assert (scale.low, scale.high, scale.signed) == (10.0, 60.0, False)
    assert np.allclose(scale.apply(values[0].numpy())[0], np.clip(expected, 0, 1), atol=1e-6)
    assert scale.describe() == "cut at 10 and 60 %"


def test_percentiles_of_all_maps_together_if_the_scale_is_shared():
    values = torch.stack([torch.arange(50.0), torch.arange(50.0, 100.0)])[:, None]
    low, high = np.percentile(np.arange(100.0), [5, 95])
    shared = normalise(values, "percentile:5,95", shared=True)
    assert shared[0, 0, 20] == pytest.approx((20 - low) / (high - low))


def test_percentiles_of_a_signed_map_keep_zero_at_the_centre():
    scale = Scale.of([np.linspace(-4.0, 2.0, 601)[None]], "percentile:5,95")
    assert scale.signed
    assert scale.low == -scale.high == pytest.approx(np.percentile(np.linspace(-4, 2, 601), 5))
    assert scale.describe() == "cut at 5 and 95 %, zero at the centre"


def test_percentiles_that_coincide_do_not_hide_a_peak():
    values = torch.zeros(1, 20, 20)
    values[0, 3, 4] = 7.0
    assert not Scale.of([values[0].numpy()], "percentile:1,99").flat
    assert normalise(values, "percentile:1,99").max() == 1.0


@pytest.mark.parametrize("mode", ["percentile", "percentile:99,1", "percentile:1,101", "percentil"])
def test_percentiles_that_are_none(mode):
    with pytest.raises(DataError, match="percentile:"):
        Scale.of([np.eye(3)], mode)
