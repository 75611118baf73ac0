"""Statistics of the audit against closed forms, scipy, hand counts and a coverage simulation."""

import math

import numpy as np
import pytest

from attnviz.errors import DataError
from attnviz.statistics.clustered import ClusterBootstrap, crossed
from attnviz.statistics.exact import mcnemar, student_quantile, student_tail, wilson


def test_wilson_by_hand_and_scipy():
    # 8 of 10 with z = 1.96: centre (.8 + .19208) / 1.38416, half 1.96 sqrt(.016 + .009604) / ...
    found = wilson(8, 10)
    assert found.low == pytest.approx(0.4902, abs=2e-4)
    assert found.high == pytest.approx(0.9433, abs=2e-4)
    assert (wilson(0, 7).low, wilson(7, 7).high) == (0.0, 1.0)
    assert wilson(0, 7).high == pytest.approx(1 - wilson(7, 7).low)
    assert math.isnan(wilson(0, 0).low)
    with pytest.raises(DataError, match="11 hits of 10"):
        wilson(11, 10)
    stats = pytest.importorskip("scipy.stats")
    for hits, n in ((0, 5), (3, 17), (500, 1000)):
        want = stats.binomtest(hits, n).proportion_ci(0.9, method="wilson")
        got = wilson(hits, n, level=0.9)
        assert (got.low, got.high) == pytest.approx((want.low, want.high))


def test_mcnemar_is_the_exact_binomial_test():
    assert mcnemar(0, 0) == 1
    assert mcnemar(0, 5) == pytest.approx(2 / 32)
    assert mcnemar(1, 5) == pytest.approx(2 * (1 + 6) / 64)
    assert mcnemar(4, 4) == 1
    stats = pytest.importorskip("scipy.stats")
    for b, c in ((2, 9), (30, 55), (900, 1000)):
        assert mcnemar(b, c) == pytest.approx(stats.binomtest(b, b + c).pvalue, rel=1e-9)


def test_student():
    # one degree of freedom is Cauchy; two have a closed form
    assert student_tail(1.0, 1) == pytest.approx(0.5)
    assert student_tail(2.0, 2) == pytest.approx(1 - 2 / math.sqrt(6))
    assert student_quantile(0.975, 10) == pytest.approx(2.228138852, abs=1e-8)
    assert student_quantile(0.975, 1e7) == pytest.approx(1.959964, abs=1e-5)


def test_nested_factors_count_once():
    a, b = ["s1", "s2", "s3", "s3"], ["x", "x", "y", "y"]
    (kept,) = crossed(a, b)  # each source has one background: the background is the cluster
    assert kept.tolist() == [0, 0, 1, 1]
    (kept,) = crossed(b, a)
    assert kept.tolist() == [0, 0, 1, 1]
    assert len(crossed(a, a)) == 1
    assert len(crossed(["s", "s", "t", "t"], ["x", "y", "x", "y"])) == 2


def test_bootstrap_of_a_constant_and_of_two_clusters():
    boot = ClusterBootstrap({"c": np.full(12, 2.5)}, crossed(list("aabbccddeeff")))
    found = boot.estimate("c")
    assert (found.interval.value, found.interval.low, found.interval.high) == (2.5, 2.5, 2.5)
    assert found.p == 0
    one = ClusterBootstrap({"c": np.arange(4.0)}, crossed(list("aaaa"))).estimate("c")
    assert math.isnan(one.interval.low)
    missing = ClusterBootstrap(
        {"c": np.array([1.0, np.nan, 3.0, np.nan])}, crossed(list("abcd"))
    ).estimate("c")
    assert missing.interval.value == 2.0
    assert (missing.interval.images, missing.clusters) == (2, 2)


def _coverage(draw, truth, runs, factors_of, resamples=200):
    hits = 0
    for run in range(runs):
        values, names = draw(np.random.default_rng(run))
        found = ClusterBootstrap(
            {"v": values}, factors_of(names), resamples=resamples, seed=run
        ).estimate("v")
        hits += found.interval.low <= truth <= found.interval.high
    return hits / runs


def test_coverage_of_clustered_images():
    """15 clusters of 6 alike images: images as units would cover about 60 %, clusters 95."""

    def draw(rng):
        return np.repeat(rng.normal(0, 1, 15), 6) + rng.normal(0, 0.5, 90), np.repeat(range(15), 6)

    right = _coverage(draw, 0.0, 300, lambda names: crossed(names.tolist()))
    wrong = _coverage(draw, 0.0, 300, lambda names: crossed(list(range(90))))
    assert 0.92 <= right <= 0.985
    assert wrong < 0.75


def test_coverage_of_crossed_factors():
    """20 objects on 20 backgrounds, both matter: redrawing one factor alone is too narrow."""

    def draw(rng):
        s, b = rng.integers(0, 20, 120), rng.integers(0, 20, 120)
        effect = rng.normal(0, 1, 20)[s] + rng.normal(0, 1, 20)[b]
        return effect + rng.normal(0, 0.3, 120), (s.tolist(), b.tolist())

    both = _coverage(draw, 0.0, 200, lambda names: crossed(*names))
    alone = _coverage(draw, 0.0, 200, lambda names: crossed(names[0]))
    assert both >= 0.92  # conservative by construction
    assert alone < 0.9
