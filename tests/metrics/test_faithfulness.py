"""Average drop, infidelity, sensitivity-n, SaCo and IROF against known truths."""

from __future__ import annotations

import itertools

import pytest
import torch

import attnviz.metrics as am
from attnviz.errors import MetricError


def test_average_drop_by_hand(linear, photos):
    photos = photos / 10  # no probability rounds to 1
    soft = torch.rand(5, 8, 8, dtype=torch.float64)
    soft[:, 0, 0], soft[:, 0, 1] = 0, 1  # already stretched
    before = linear(photos).softmax(1)[:, 1].detach()
    after = linear(photos * soft[:, None]).softmax(1)[:, 1].detach()
    for maps in (soft, 7 * soft - 2):  # the map is stretched, so its scale and offset are nothing
        drop = am.average_drop(linear, photos, maps, 1)
        torch.testing.assert_close(drop.values, ((before - after) / before).clamp_min(0))
        torch.testing.assert_close(drop.extra["after"], after)
        increase = am.average_increase(linear, photos, maps, 1)
        assert increase.values.tolist() == (after > before).double().tolist()
        gain = am.average_gain(linear, photos, maps, 1)
        torch.testing.assert_close(gain.values, ((after - before) / (1 - before)).clamp_min(0))


def test_a_constant_map_has_a_perfect_drop_which_is_why_there_are_controls(linear, photos):
    perfect = am.average_drop(linear, photos, torch.full((5, 8, 8), 0.3), 1)
    assert (perfect.values == 0).all()
    assert perfect.summary() == 0
    nothing = am.average_drop(linear, photos, torch.zeros(5, 8, 8), 1)
    torch.testing.assert_close(nothing.extra["after"], torch.full((5,), 0.25, dtype=torch.float64))


def test_scores_without_room_are_skipped(photos):
    def sure(x):
        return torch.tensor([[1000.0, 0.0]], dtype=torch.float64).expand(len(x), 2)

    maps = torch.rand(5, 8, 8)
    assert am.average_gain(sure, photos, maps, 0).skip_counts == {"score leaves no room": 5}
    assert am.average_drop(sure, photos, maps, 1, score="logit").skipped == 5
    assert am.average_drop(sure, photos, maps, 0).skipped == 0
    with pytest.raises(MetricError, match="share of probability"):
        am.average_gain(sure, photos, maps, 0, score="logit")
    with pytest.raises(MetricError, match="imputed"):
        am.average_drop(sure, photos, maps, 0, baseline="imputed")


@pytest.mark.parametrize("normalize", [False, True])
def test_gradient_of_a_linear_model_has_no_infidelity(linear, photos, normalize):
    gradient = linear.w[2].detach().expand(5, -1, -1, -1)
    found = am.infidelity(
        linear, photos, gradient, 2, perturbation="noise", samples=20, normalize=normalize
    )
    assert (found.values < 1e-20).all()
    # and contributions foretell what squares take away
    for baseline in ("zero", "mean"):
        base = 0.0 if baseline == "zero" else photos.mean((2, 3), keepdim=True)
        maps = linear.contributions(photos, 2, base)
        squares = am.infidelity(
            linear, photos, maps, 2, baseline=baseline, samples=20, normalize=normalize
        )
        assert (squares.values < 1e-20).all()
    wrong = am.infidelity(linear, photos, torch.rand(5, 8, 8), 2, samples=20)
    assert (wrong.values > 1e-2).all()


def test_infidelity_is_normalised(linear, photos):
    maps = linear.contributions(photos, 0) + torch.randn(5, 8, 8)
    once = am.infidelity(linear, photos, maps, 0, samples=30)
    torch.testing.assert_close(
        am.infidelity(linear, photos, -250 * maps, 0, samples=30).values, once.values
    )
    raw = am.infidelity(linear, photos, maps, 0, samples=30, normalize=False)
    assert (once.values <= raw.values).all()  # beta is the best factor, 1 is one
    assert str(once.protocol) == "infd[logit, squares, 30 samples, normalised]"
    with pytest.raises(MetricError, match="not comparable"):
        am.require_alike([once.protocol, raw.protocol])


@pytest.mark.parametrize("normalize", [False, True])
def test_infidelity_agrees_with_captum(convnet, photos, normalize):
    captum_metrics = pytest.importorskip("captum.metrics")
    net = convnet.eval()
    attribution = torch.randn_like(photos)
    noise = 0.3 * torch.randn(5, 12, 3, 8, 8, dtype=torch.float64)

    def perturb(inputs):
        return noise.flatten(0, 1), inputs - noise.flatten(0, 1)

    theirs = captum_metrics.infidelity(
        net, perturb, photos, attribution, target=1, n_perturb_samples=12, normalize=normalize
    )
    ours = am.infidelity(
        net, photos, attribution, 1, perturbation=noise, normalize=normalize, score="logit"
    )
    torch.testing.assert_close(ours.values, theirs.detach())


@pytest.mark.parametrize("substrate", ["pixel", "patch"])
def test_sensitivity_n_of_a_linear_model_is_one(linear, photos, substrate):
    for baseline in ("zero", "mean"):
        base = 0.0 if baseline == "zero" else photos.mean((2, 3), keepdim=True)
        maps = linear.contributions(photos, 3, base)
        found = am.sensitivity_n(
            linear, photos, maps, 3, baseline=baseline, substrate=substrate, patch=2, subsets=10
        )
        torch.testing.assert_close(found.values, torch.ones(5, dtype=torch.float64))
        assert found.extra["by_size"].shape == (5, 4)
        opposite = am.sensitivity_n(
            linear, photos, -maps, 3, baseline=baseline, substrate=substrate, patch=2, subsets=10
        )
        torch.testing.assert_close(opposite.values, -torch.ones(5, dtype=torch.float64))
    one = am.faithfulness_correlation(linear, photos, linear.contributions(photos, 3), 3, patch=1)
    torch.testing.assert_close(one.values, torch.ones(5, dtype=torch.float64))


def test_sensitivity_n_skips_what_has_no_correlation(linear, planted, photos):
    found = am.sensitivity_n(linear, photos, torch.ones(5, 8, 8), 0)
    assert found.skip_counts == {"flat map": 5}
    blind = am.sensitivity_n(
        lambda x: torch.ones(len(x), 2, dtype=torch.float64), photos, torch.rand(5, 8, 8), 0
    )
    assert blind.skip_counts == {"no set changes the score": 5}
    single = am.sensitivity_n(lambda x: x.flatten(1), photos[:, :, :1, :1], torch.rand(5, 2, 2), 0)
    assert single.skip_counts == {"fewer than 2 cells": 5}


def _saco_by_the_paper(lost: list[float], salience: list[float]) -> float:
    """Algorithm 1 of the paper: groups from the most salient to the least."""
    total = weights = 0.0
    for i, j in itertools.combinations(range(len(lost)), 2):
        weight = salience[i] - salience[j]
        if lost[i] < lost[j]:
            weight = -weight
        total += weight
        weights += abs(weight)
    return total / weights


def test_saco_follows_the_papers_algorithm(linear, photos):
    maps = torch.randn(5, 8, 8, dtype=torch.float64)
    found = am.saco(linear, photos, maps, 2, groups=4, baseline="zero", score="logit")
    for x, row, value in zip(photos, maps, found.values, strict=True):
        order = row.flatten().argsort(descending=True)
        each = linear.contributions(x[None], 2)[0].flatten()[order].view(4, 16)
        expected = _saco_by_the_paper(
            each.sum(1).tolist(), row.flatten()[order].view(4, 16).sum(1).tolist()
        )
        assert float(value) == pytest.approx(expected, abs=1e-12)
    right = am.saco(
        linear, photos, linear.contributions(photos, 2), 2, baseline="zero", score="logit"
    )
    assert (right.values == 1).all()
    wrong = am.saco(
        linear, photos, -linear.contributions(photos, 2), 2, baseline="zero", score="logit"
    )
    assert (wrong.values == -1).all()


def test_saco_skips_flat_maps_and_any_map_of_few_pixels(linear, photos):
    found = am.saco(linear, photos, torch.ones(5, 8, 8), 0)
    assert found.skip_counts == {"flat map": 5}
    tiny = am.saco(lambda x: x.flatten(1), photos[:, :, :1, :2], torch.rand(5, 1, 2), 0)
    assert tiny.skipped == 0  # two groups of one pixel


def test_irof_of_a_planted_patch(planted, photos):
    x = photos.abs() + 3
    good = am.irof(planted, x, planted.map(x), 0, segments=16, baseline="zero")
    bad = am.irof(planted, x, 1 - planted.map(x), 0, segments=16, baseline="zero")
    assert (good.values > bad.values + 0.1).all()
    assert (good.extra["segments"] > 4).all()
    # by hand for one image: probability after each segment, most relevant first
    (label,) = am.superpixels(x[:1], 16)
    count = int(label.max()) + 1
    mean = torch.stack([planted.map(x)[0][label == s].mean() for s in range(count)])
    assert len(mean.unique()) > 2
    image, curve = x[:1].clone(), []
    original = float(planted(image).softmax(1)[0, 0])
    order = mean.argsort(descending=True)
    curve.append(1.0)
    for s in order:
        image = torch.where(label == s, 0.0, image)
        curve.append(float(planted(image).softmax(1)[0, 0]) / original)
    area = 1 - torch.trapezoid(torch.tensor(curve), dx=1 / count)
    # segments without any evidence tie, and removing them changes nothing
    assert float(good.values[0]) == pytest.approx(float(area), abs=1e-6)


def test_irof_and_segments_on_colour_and_on_any_shape(convnet):
    x = torch.randn(2, 3, 20, 33, dtype=torch.float64)
    x[0, :, :, 16:] += 30  # two halves of very different colour
    labels = am.superpixels(x, 12)
    for label in labels:
        assert label.shape == (20, 33)
        assert sorted(label.unique().tolist()) == list(range(int(label.max()) + 1))
    left, right = labels[0][:, :16].unique().tolist(), labels[0][:, 16:].unique().tolist()
    assert not set(left) & set(right)
    assert am.irof(convnet, x, torch.rand(2, 5, 5), segments=12).values.isfinite().all()
    one = am.irof(lambda x: x.flatten(1), x[:, :, :1, :1], torch.rand(2, 1, 1), 0)
    assert one.extra["segments"].tolist() == [1, 1]


class _Extractor:
    """What torchcam's metrics need of an extractor, giving maps of our choice."""

    def __init__(self, model, maps):
        self.model, self.maps = model, maps

    def __call__(self, class_idx=None, scores=None, normalized=True, *, targets=None, **kwargs):
        return [self.maps]

    def fuse_cams(self, cams):
        return cams[0]

    def _hooks_off(self):
        return torch.no_grad()


@pytest.mark.peer("torchcam")
def test_agreement_with_torchcam():
    from functools import partial

    from torchcam import metrics as theirs

    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 6, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(1176, 4)
    ).eval()
    x = torch.randn(4, 3, 16, 16)
    maps = torch.rand(4, 16, 16)
    maps = (maps - maps.amin((1, 2), keepdim=True)) / (
        maps.amax((1, 2), keepdim=True) - maps.amin((1, 2), keepdim=True)
    )
    softmax = partial(torch.softmax, dim=-1)
    metric = theirs.ClassificationMetric(_Extractor(net, maps), softmax)
    metric.update(x, 2)
    summary = metric.summary()
    assert am.average_drop(net, x, maps, 2).summary() == pytest.approx(
        summary["avg_drop"], abs=1e-5
    )
    assert am.average_increase(net, x, maps, 2).summary() == summary["conf_increase"]
    metric = theirs.DeletionInsertionMetric(_Extractor(net, maps), softmax, steps=16)
    metric.update(x, 2)
    summary = metric.summary()
    options = {"steps": 16, "baseline": "zero"}
    ours = am.deletion(net, x, maps, 2, **options).summary()
    assert ours == pytest.approx(summary["deletion_auc"], abs=1e-6)
    ours = am.insertion(net, x, maps, 2, **options).summary()
    assert ours == pytest.approx(summary["insertion_auc"], abs=1e-6)


@pytest.mark.parametrize("transform", [torch.exp, lambda m: m**3, lambda m: 5 * m - 7])
def test_rank_metrics_ignore_monotone_transforms(convnet, photos, transform):
    maps = torch.randn(5, 8, 8, dtype=torch.float64)
    maps[:, 0] = maps[:, 1]  # ties stay ties
    for function in (am.deletion, am.insertion, am.road):
        assert torch.equal(
            function(convnet, photos, transform(maps)).values,
            function(convnet, photos, maps).values,
        )
    masks = torch.rand(5, 8, 8) < 0.4
    for function in (am.auroc, am.pxap, am.pointing):
        assert torch.equal(function(transform(maps), masks).values, function(maps, masks).values)
