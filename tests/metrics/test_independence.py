"""Results do not depend on the batch size, the other images of the batch, or their order."""

from __future__ import annotations

import pytest
import torch

import attnviz.metrics as am

CASES = {
    "deletion": (am.deletion, {"steps": 6}),
    "insertion-noise": (am.insertion, {"steps": 4, "baseline": "noise"}),
    "lerf-blur": (am.lerf, {"steps": 4, "baseline": "blur", "substrate": "patch", "patch": 3}),
    "deletion-imputed": (am.deletion, {"steps": 3, "baseline": "imputed"}),
    "road": (am.road, {"percentiles": (30, 70)}),
    "road-combined": (am.road, {"percentiles": (50,), "order": "combined"}),
    "average_drop": (am.average_drop, {}),
    "average_increase": (am.average_increase, {}),
    "average_gain": (am.average_gain, {"baseline": "blur"}),
    "infidelity": (am.infidelity, {"samples": 5}),
    "infidelity-noise": (am.infidelity, {"samples": 5, "perturbation": "noise"}),
    "sensitivity_n": (am.sensitivity_n, {"subsets": 6, "patch": 2}),
    "faithfulness_correlation": (am.faithfulness_correlation, {"subsets": 6, "patch": 2}),
    "f_fidelity": (am.f_fidelity, {"samples": 3, "sizes": (0.2, 0.6), "patch": 2}),
    "saco": (am.saco, {"groups": 5}),
    "irof": (am.irof, {"segments": 6}),
}


@pytest.mark.parametrize("name", CASES)
def test_bit_exact_in_double_precision(name, convnet):
    function, options = CASES[name]
    x = torch.randn(6, 3, 12, 12, dtype=torch.float64)
    maps = torch.rand(6, 4, 4)
    maps[1, :3] = 0  # ties
    whole = function(convnet, x, maps, batch_size=32, **options).values
    assert whole.isfinite().all()
    order = torch.tensor([4, 0, 3, 5, 1, 2])
    shuffled = function(convnet, x[order], maps[order], batch_size=5, **options).values
    assert torch.equal(shuffled, whole[order])
    for i in range(6):
        alone = function(convnet, x[i : i + 1], maps[i : i + 1], batch_size=1, **options).values
        assert torch.equal(alone[0], whole[i])
    # a mate that is skipped changes nothing either
    broken = maps.clone()
    broken[2] = float("nan")
    rest = [0, 1, 3, 4, 5]
    found = function(convnet, x, broken, batch_size=7, **options)
    assert torch.equal(found.values[rest], whole[rest])
    assert found.skipped == 1


@pytest.mark.parametrize("name", ["pointing", "energy", "iou", "auroc", "pxap"])
def test_localisation_is_image_by_image(name):
    function = am.METRICS.get(name).fn
    maps, masks = torch.rand(6, 20, 20), torch.rand(6, 20, 20) < 0.3
    whole = function(maps, masks).values
    order = torch.tensor([5, 2, 0, 1, 4, 3])
    assert torch.equal(function(maps[order], masks[order]).values, whole[order])
    for i in range(6):
        assert torch.equal(function(maps[i : i + 1], masks[i : i + 1]).values[0], whole[i])


def test_controls_and_noise_belong_to_the_image():
    x = torch.randn(4, 3, 16, 16)
    whole = am.control_maps(x)
    flipped = am.control_maps(x.flip(0))
    for name, maps in whole.items():
        assert torch.equal(maps, flipped[name].flip(0)), name
    assert not torch.equal(whole["random"][0], whole["random"][1])
    noise = am.baseline("noise", x).values
    assert torch.equal(am.baseline("noise", x[2:3]).values[0], noise[2])


def test_single_precision_batches_agree_closely():
    torch.manual_seed(1)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(800, 4)
    )
    x, maps = torch.randn(5, 3, 12, 12), torch.rand(5, 12, 12)
    one = am.deletion(net, x, maps, batch_size=1).scores
    many = am.deletion(net, x, maps, batch_size=64).scores
    torch.testing.assert_close(one, many, rtol=1e-5, atol=1e-6)
