"""Exact small-sample statistics: Wilson's interval, McNemar's test, Student's t."""

from __future__ import annotations

import math
from functools import lru_cache

from ..errors import DataError
from .intervals import Interval


def normal_quantile(p: float) -> float:
    """Return the standard normal's quantile of p in (0, 1)."""
    from statistics import NormalDist

    return NormalDist().inv_cdf(p)


def wilson(hits: int, images: int, *, level: float = 0.95) -> Interval:
    """Return Wilson's score interval of a share (E. B. Wilson, JASA 1927).

    It never leaves [0, 1] and has a length also at 0 and 100 %.

    Args:
        hits: how many of the images.
        images: how many there are; none gives NaN.
        level: coverage.

    Raises:
        DataError: hits outside 0 to images.
    """
    if not 0 <= hits <= images:
        raise DataError(f"{hits} hits of {images} images: expected 0 to {images}")
    if not images:
        return Interval(math.nan, math.nan, math.nan, level, 0)
    z = normal_quantile(0.5 + level / 2)
    share = hits / images
    scale = 1 + z * z / images
    centre = (share + z * z / (2 * images)) / scale
    half = z * math.sqrt(share * (1 - share) / images + z * z / (4 * images**2)) / scale
    low = 0.0 if hits == 0 else centre - half
    high = 1.0 if hits == images else centre + half
    return Interval(share, low, high, level, images)


def mcnemar(lost: int, gained: int) -> float:
    """Return the exact two-sided p of McNemar's test: the binomial test of discordant pairs.

    McNemar (Psychometrika 1947), in its exact form: were losses and gains equally likely, how
    often would the rarer of them be as rare?

    Args:
        lost: images that were right before and are wrong after.
        gained: the other way round.

    Returns:
        p in (0, 1]; 1 where nothing changed.
    """
    if lost < 0 or gained < 0:
        raise DataError(f"counts of pairs are not negative, got {lost} and {gained}")
    n, least = lost + gained, min(lost, gained)
    if n == 0:
        return 1.0
    log_all = n * math.log(2)
    terms = (
        math.exp(math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - log_all)
        for k in range(least + 1)
    )
    return min(1.0, 2 * math.fsum(terms))


def student_tail(t: float, freedom: float) -> float:
    """Return P(|T| > |t|) of Student's t with `freedom` degrees: the two-sided p."""
    if math.isnan(t):
        return math.nan
    if math.isinf(t):
        return 0.0
    return _incomplete_beta(freedom / (freedom + t * t), freedom / 2, 0.5)


@lru_cache(maxsize=1024)
def student_quantile(p: float, freedom: float) -> float:
    """Return the quantile of p in [0.5, 1) of Student's t with `freedom` degrees."""
    low, high = 0.0, 1.0
    while student_tail(high, freedom) > 2 * (1 - p):
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if student_tail(middle, freedom) > 2 * (1 - p) else (low, middle)
    return (low + high) / 2


def _incomplete_beta(x: float, a: float, b: float) -> float:
    """Regularised incomplete beta function by its continued fraction (Lentz)."""
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    if x > (a + 1) / (a + b + 2):
        return 1 - _incomplete_beta(1 - x, b, a)
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )
    tiny = 1e-300
    c, d = 1.0, 1 / _off_zero(1 - (a + b) * x / (a + 1), tiny)
    total = d
    for m in range(1, 500):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        change = 1.0
        for term in (even, odd):
            d = 1 / _off_zero(1 + term * d, tiny)
            c = _off_zero(1 + term / c, tiny)
            change = c * d
            total *= change
        if abs(change - 1) < 1e-15:
            break
    return front * total / a


def _off_zero(value: float, tiny: float) -> float:
    return value if abs(value) > tiny else tiny
