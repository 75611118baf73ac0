"""Protocols, controls, intervals, paired tests and rankings."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

import attnviz.metrics as am
from attnviz.errors import MetricError
from attnviz.metrics.controls import edges


def scores(values, name="deletion", better=False, **settings) -> am.Scores:
    protocol = am.Protocol.of(name, higher_is_better=better, **settings)
    values = torch.as_tensor(values, dtype=torch.float64)
    reasons = tuple("map not finite" if v != v else None for v in values.tolist())
    return am.Scores(values, protocol, reasons)


def test_unlike_protocols_are_not_compared():
    mean, blur = scores([1, 2], baseline="mean"), scores([1, 2], baseline="blur")
    for refused in (
        lambda: am.require_alike([mean.protocol, blur.protocol]),
        lambda: am.Scores.join([mean, blur]),
        lambda: am.compare_methods({"a": mean, "b": blur}),
    ):
        with pytest.raises(MetricError, match="baseline: mean, not blur"):
            refused()
    with pytest.raises(MetricError, match="metric: deletion, not insertion"):
        am.require_alike([mean.protocol, scores([1], "insertion").protocol])
    assert am.Scores.join([mean, mean]).values.tolist() == [1, 2, 1, 2]
    with pytest.raises(dataclasses.FrozenInstanceError):
        mean.values = torch.zeros(2)


def test_results_are_json_without_nan():
    found = scores([0.5, float("nan")])
    text = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert text["values"] == [0.5, None]
    assert text["skipped"] == [None, "map not finite"]
    assert text["summary"] == 0.5
    assert "1 skipped" in repr(found)


def test_control_maps():
    x = torch.zeros(2, 3, 32, 48)
    x[:, :, :, 24:] = 1.0
    masks = torch.rand(2, 32, 48) < 0.3
    found = am.control_maps(x, masks, size=(4, 6))
    assert list(found) == list(am.CONTROLS)
    for name, maps in found.items():
        assert maps.shape == (2, 32, 48), name
        assert 0 <= maps.min() <= maps.max() <= 1
    assert torch.equal(found["mask"], masks.float())
    assert (found["constant"] == 1).all()
    # the edge is where the step is, nowhere else
    assert (found["edge"][:, :, 23:25] == 1).all()
    assert found["edge"].sum() == pytest.approx(2 * 32 * 2)
    centre = found["centre"][0]
    assert torch.equal(centre, centre.flip(0))
    torch.testing.assert_close(centre, centre.flip(1))
    assert centre.argmax() in (15 * 48 + 23, 15 * 48 + 24, 16 * 48 + 23, 16 * 48 + 24)
    ramp = torch.arange(8.0).expand(1, 1, 8, 8)
    assert (edges(ramp)[..., 1:-1] == 1).all()  # one grey level a pixel
    assert "mask" not in am.control_maps(x)
    assert len(am.control_maps(torch.zeros(1, 3, 1, 1))) == 5


def test_controls_expose_metrics_that_reward_nothing(linear, photos):
    controls = am.control_maps(photos)
    drops = {name: am.average_drop(linear, photos, m).summary() for name, m in controls.items()}
    assert drops["constant"] == 0 == min(drops.values())
    assert am.relative(0.6, chance=0.2, best=1.0) == pytest.approx(0.5)
    assert math.isnan(am.relative(0.6, chance=0.2, best=0.2))


def test_bootstrap_agrees_with_scipy():
    stats = pytest.importorskip("scipy.stats")
    values = np.random.default_rng(0).gamma(1.5, size=40)
    found = am.bootstrap(scores(values), resamples=40_000)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=40_000, method="BCa", rng=np.random.default_rng(1)
    ).confidence_interval
    spread = values.std() / 40**0.5
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(theirs.low, abs=0.05 * spread)
    assert found.high == pytest.approx(theirs.high, abs=0.05 * spread)
    assert found.images == 40


def test_bootstrap_covers_the_truth_as_often_as_it_says():
    draw = np.random.default_rng(2)
    inside = 0
    for _ in range(200):
        found = am.bootstrap(scores(draw.normal(size=25)), resamples=500)
        inside += found.low <= 0 <= found.high
    assert 0.88 <= inside / 200 <= 0.99


def test_bootstrap_edges():
    assert am.bootstrap(scores([2.0, 2.0, 2.0])).low == 2.0
    one = am.bootstrap(scores([2.0, float("nan")]))
    assert (one.value, one.images) == (2.0, 1)
    assert math.isnan(one.low)
    assert one.as_dict()["low"] is None
    skipping = am.bootstrap(scores([1.0, float("nan"), 3.0, 2.0]))
    assert skipping.images == 3
    assert 1 <= skipping.low <= 2 <= skipping.high <= 3
    with pytest.raises(MetricError, match="level"):
        am.bootstrap(scores([1.0, 2.0]), level=95)


def test_bootstrap_of_metrics_that_are_no_means():
    maps = torch.rand(6, 20, 20, dtype=torch.float64)
    masks = torch.rand(6, 20, 20) < 0.3
    pooled = am.pooled_pxap(maps, masks)
    every = torch.arange(6)[None]
    assert float(pooled.replicates(every)) == pytest.approx(pooled.summary(), abs=5e-3)
    boxes = am.maxboxacc_v2(maps, [[(2, 2, 12, 15)]] * 6, thresholds=10)
    assert float(boxes.replicates(every)) == pytest.approx(boxes.summary(), abs=1e-6)
    for found in (pooled, boxes):
        interval = am.bootstrap(found, resamples=200)
        assert interval.low <= interval.high


def test_sign_flip_test_agrees_with_scipy():
    stats = pytest.importorskip("scipy.stats")
    for n in (2, 4, 9):
        d = np.random.default_rng(n).normal(0.5, 1, size=n)
        theirs = stats.permutation_test(
            (d,), np.mean, permutation_type="samples", n_resamples=np.inf, vectorized=False
        ).pvalue
        assert am.sign_flip_test(torch.from_numpy(d)) == pytest.approx(theirs, abs=1e-12)
    assert am.sign_flip_test(torch.zeros(5)) == 1
    assert math.isnan(am.sign_flip_test(torch.zeros(0)))
    # all ten differences positive: 2 of 1,024 patterns are as extreme
    assert am.sign_flip_test(torch.rand(10) + 0.1) == 2 / 1024
    many = torch.randn(40) + 0.4
    exact = stats.wilcoxon(many.numpy()).pvalue
    assert am.sign_flip_test(many) == pytest.approx(exact, abs=0.03)


def test_holm_by_hand():
    assert am.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert am.holm([0.5, 0.9]) == [1.0, 1.0]
    nan = float("nan")
    found = am.holm([nan, 0.02, 0.01])
    assert math.isnan(found[0])
    assert found[1:] == pytest.approx([0.02, 0.02])


def test_compare_methods_pairs_images():
    a = scores([1.0, 2, 3, 4, 5, float("nan")])
    b = scores([0.0, 1, 2, 3, float("nan"), 5])
    c = scores([1.0, 2, 3, 4, 5, 6])
    rows = {(r.first, r.second): r for r in am.compare_methods({"a": a, "b": b, "c": c})}
    assert len(rows) == 3
    assert rows["a", "b"].difference == 1
    assert rows["a", "b"].images == 4
    assert rows["a", "b"].p == 2 / 16
    assert rows["a", "b"].adjusted == pytest.approx(2 * 2 / 16)  # the second smallest of three
    assert rows["a", "c"].difference == 0
    assert rows["a", "c"].p == 1
    with pytest.raises(MetricError, match="unlike numbers"):
        am.compare_methods({"a": a, "b": scores([1.0])})


def test_kendall_agrees_with_scipy():
    stats = pytest.importorskip("scipy.stats")
    for seed in range(5):
        draw = np.random.default_rng(seed)
        a, b = draw.integers(0, 4, 8).tolist(), draw.integers(0, 4, 8).tolist()
        assert am.kendall(a, b) == pytest.approx(stats.kendalltau(a, b).statistic, abs=1e-12)


def test_ranking_over_baselines():
    def results(numbers, baseline):
        return {m: scores([v], baseline=baseline) for m, v in numbers.items()}

    same = am.ranking_stability(
        {
            "mean": results({"a": 0.1, "b": 0.2, "c": 0.3}, "mean"),
            "blur": results({"a": 0.5, "b": 0.6, "c": 0.9}, "blur"),
        }
    )
    assert (same.tau, same.best) == (1, "a")
    assert str(same) == "ranking survives over mean, blur; tau >= 1.00"
    assert same.orders["blur"] == ("a", "b", "c")
    turned = am.ranking_stability(
        {
            "mean": results({"a": 0.1, "b": 0.2}, "mean"),
            "zero": results({"a": 0.9, "b": 0.2}, "zero"),
        }
    )
    assert (turned.tau, turned.best) == (-1, None)
    assert "changes over mean, zero (a, b)" in str(turned)
    with pytest.raises(MetricError, match="two protocols"):
        am.ranking_stability({"mean": results({"a": 1, "b": 2}, "mean")})


def test_registry_is_complete():
    for entry in am.METRICS:
        assert getattr(am, entry.name) is entry.fn
        assert entry.meta["needs"] == () or set(entry.meta["needs"]) <= set(am.NEEDS)
        assert entry.family in (
            "faithfulness",
            "localisation",
            "robustness",
            "randomisation",
            "complexity",
        )
        assert entry.summary.endswith(".")
    with pytest.raises(MetricError, match="did you mean 'deletion'"):
        am.METRICS.get("deletoin")


def test_importing_metrics_imports_nothing_heavy():
    code = (
        "import sys, attnviz.metrics; "
        "print([m for m in ('matplotlib', 'cv2', 'timm', 'captum', 'torchvision', 'scipy') "
        "if m in sys.modules])"
    )
    environment = dict(os.environ)
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert found.stdout.strip() == "[]"
