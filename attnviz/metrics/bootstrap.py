"""Intervals over images: how far would the number move with other photos?"""

from __future__ import annotations

import torch

from ..errors import MetricError
from ..statistics.intervals import Interval, bca
from .scores import Scores


def bootstrap(
    scores: Scores, *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Return a bootstrap interval of a metric's summary over images.

    Bias-corrected and accelerated (Efron, JASA 1987). Images are drawn with replacement from those
    that count. With fewer than two the interval is not known: NaN.

    Args:
        scores: what a metric returned.
        level: coverage, between 0 and 1.
        resamples: number of redrawn sets.
        seed: of the drawing.
    """
    if not 0 < level < 1:
        raise MetricError(f"level={level}, expected between 0 and 1, such as .95")
    if resamples < 1:
        raise MetricError(f"resamples={resamples}, expected at least 1")
    index = scores.valid.nonzero()[:, 0].cpu()
    n = len(index)
    value = scores.summary()
    if n < 2:
        return Interval(value, float("nan"), float("nan"), level, n)
    draw = torch.randint(0, n, (resamples, n), generator=torch.Generator().manual_seed(seed))
    replicates = scores.replicates(index[draw])
    others = torch.arange(n).expand(n, n)[~torch.eye(n, dtype=torch.bool)].view(n, n - 1)
    left_out = scores.replicates(index[others])
    low, high = bca(replicates, left_out, value, level)
    return Interval(value, low, high, level, n)
