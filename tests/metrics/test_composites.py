"""ADCC, ARCC and F-Fidelity against values by hand and independent slow code."""

import numpy as np
import pytest
import torch
from torch import nn

import attnviz.metrics as am
from attnviz.errors import MetricError


class Inside(nn.Module):
    """Class 0's logit is the mean of the left half; class 1's is zero."""

    def forward(self, x):
        left = x[..., : x.shape[-1] // 2].mean((1, 2, 3))
        return torch.stack([left, torch.zeros_like(left)], 1)


def test_adcc_of_a_map_that_keeps_all_and_never_changes_is_known():
    x = torch.rand(3, 3, 8, 8, dtype=torch.float64) + 1
    halves = x.new_zeros(3, 8, 8)
    halves[..., :4] = 1
    found = am.adcc(lambda model, x: halves, Inside(), x, 0)
    # coherency 1, complexity 1/2, no drop
    torch.testing.assert_close(found.values, torch.full((3,), 3 / (1 + 2 + 1)).double())
    assert str(found.protocol) == "ADCC[softmax]"
    flat = am.adcc(lambda model, x: torch.ones(3, 8, 8), Inside(), x, 0)
    assert flat.skip_counts == {"flat map": 3}


def test_adcc_equals_a_loop_over_images(convnet):
    torch.manual_seed(0)
    x = torch.randn(4, 3, 12, 12, dtype=torch.float64)

    def explain(model, x):
        return x.square().sum(1) * torch.linspace(0.2, 1, 12).to(x)

    found = am.adcc(explain, convnet, x, [2, 0, 1, 3])
    assert convnet.training
    convnet.eval()
    for i, cls in enumerate([2, 0, 1, 3]):
        first = explain(convnet, x[i : i + 1])[0]
        soft = (first - first.min()) / (first.max() - first.min())
        shown = x[i] * soft
        second = explain(convnet, shown[None])[0]
        r = np.corrcoef(first.numpy().ravel(), second.numpy().ravel())[0, 1]
        before, after = convnet(torch.stack([x[i], shown])).softmax(1)[:, cls].tolist()
        coherency, complexity = (1 + r) / 2, float(soft.mean())
        drop = max(0.0, before - after) / before
        want = 3 / (1 / coherency + 1 / (1 - complexity) + 1 / (1 - drop))
        assert float(found.values[i]) == pytest.approx(want, rel=1e-9)
        assert float(found.extra["coherency"][i]) == pytest.approx(coherency, rel=1e-9)
        assert float(found.extra["complexity"][i]) == pytest.approx(complexity, rel=1e-9)
        assert float(found.extra["drop"][i]) == pytest.approx(drop, rel=1e-9)


def test_arcc_takes_road_for_the_drop(convnet):
    torch.manual_seed(0)
    x = torch.randn(3, 3, 12, 12, dtype=torch.float64)
    maps = torch.rand(3, 12, 12, dtype=torch.float64)
    found = am.arcc(lambda model, x: maps, convnet, x, 1, percentiles=(30, 60))
    road = am.road(convnet, x, maps, 1, order="combined", percentiles=(30, 60)).values
    kept = (2 * road).clamp(0, 1)
    simple = torch.stack([1 - (m - m.min()).mean() / (m.max() - m.min()) for m in maps])
    want = 3 / (1 + 1 / simple + 1 / kept)  # coherent: the map is the same for any image
    torch.testing.assert_close(found.values, want, rtol=1e-6, atol=1e-9)


def test_f_fidelity_of_a_linear_model_is_the_sum_of_what_is_removed(linear, photos):
    contributions = linear.contributions(photos, 1)  # (5, 8, 8) of the logit
    maps = torch.rand(5, 8, 8, dtype=torch.float64)
    found = am.f_fidelity(
        linear, photos, maps, 1, sizes=(0.25, 0.5), alpha=1, beta=1, samples=1, patch=1,
        score="logit",
    )  # fmt: skip
    for i in range(5):
        order = maps[i].flatten().argsort(descending=True)
        sorted_parts = contributions[i].flatten()[order]
        for number, k in enumerate((16, 32)):
            plus, minus = sorted_parts[:k].sum(), sorted_parts[k:].sum()
            torch.testing.assert_close(found.extra["plus"][i, number], plus)
            torch.testing.assert_close(found.extra["minus"][i, number], minus)
    want = (found.extra["plus"] - found.extra["minus"]).mean(1)
    torch.testing.assert_close(found.values, want)


def test_f_fidelity_removes_few_cells_at_random(linear, photos, counting):
    model = counting(linear)
    maps = linear.contributions(photos[:1], 1)
    found = am.f_fidelity(
        model, photos[:1], maps, 1, sizes=(0.25,), alpha=0.5, beta=0.05, samples=400, patch=1,
        score="logit",
    )  # fmt: skip
    gone = torch.cat(model.batches[1:]).sum(1).eq(0).flatten(1).sum(1)
    assert set(gone.tolist()) == {3}  # min(.5 x 16, .05 x 64), and of the rest min(24, 3)
    inside = maps.flatten().sort(descending=True).values
    # three of the sixteen highest, drawn without order
    assert float(found.extra["plus"]) == pytest.approx(float(3 * inside[:16].mean()), rel=0.1)
    shown = am.f_fidelity(linear, photos, linear.contributions(photos, 1), 1, score="logit")
    noise = torch.randn(5, 8, 8, dtype=torch.float64)
    worse = am.f_fidelity(
        linear, photos, linear.contributions(photos, 1) + 2 * noise, 1, score="logit"
    )
    turned = am.f_fidelity(linear, photos, -linear.contributions(photos, 1), 1, score="logit")
    assert shown.summary() > worse.summary() > turned.summary()


def test_f_fidelity_says_what_is_out_of_range(linear, photos):
    for options in ({"sizes": (0, 0.5)}, {"beta": 0}, {"alpha": 2.5}, {"samples": 0}):
        with pytest.raises(MetricError, match="shares? between 0 and 1"):
            am.f_fidelity(linear, photos, torch.rand(5, 8, 8), 1, **options)
