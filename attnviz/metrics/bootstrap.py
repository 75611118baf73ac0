"""Intervals over images: how far would the number move with other photos?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import MetricError
from .scores import Scores


@dataclass(frozen=True)
class Interval:
    """A confidence interval.

    Attributes:
        value: the metric over the images there are.
        low: lower end.
        high: upper end.
        level: the nominal coverage, such as .95.
        images: how many counted.
    """

    value: float
    low: float
    high: float
    level: float
    images: int

    def __str__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values; NaN becomes None."""
        fields = {"value": self.value, "low": self.low, "high": self.high}
        fields = {k: None if math.isnan(v) else v for k, v in fields.items()}
        return fields | {"level": self.level, "images": self.images}


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
    low, high = _bca(replicates, left_out, value, level)
    return Interval(value, low, high, level, n)


def _bca(replicates: Tensor, left_out: Tensor, value: float, level: float) -> tuple[float, float]:
    normal = torch.distributions.Normal(0.0, 1.0)
    below = (replicates < value).double().mean() + (replicates == value).double().mean() / 2
    if not 0 < float(below) < 1:
        return float(replicates.min()), float(replicates.max())
    bias = normal.icdf(below.float()).double()
    deviation = left_out.mean() - left_out
    spread = (deviation**2).sum() ** 1.5
    acceleration = (deviation**3).sum() / (6 * spread) if spread > 0 else torch.zeros(())
    ends = []
    for tail in ((1 - level) / 2, (1 + level) / 2):
        shifted = bias + normal.icdf(torch.tensor(tail)).double()
        quantile = normal.cdf((bias + shifted / (1 - acceleration * shifted)).float())
        ends.append(float(replicates.quantile(quantile.double().clamp(0, 1))))
    return ends[0], ends[1]
