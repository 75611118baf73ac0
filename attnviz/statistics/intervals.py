"""Intervals over images: how far would the number move with other photos?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


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


def bca(replicates: Tensor, left_out: Tensor, value: float, level: float) -> tuple[float, float]:
    """Return a bias-corrected and accelerated interval (Efron, JASA 1987, 82(397)).

    Args:
        replicates: (R,) the statistic on redrawn sets.
        left_out: (n,) the statistic with each image left out.
        value: the statistic on the set itself.
        level: coverage, between 0 and 1.
    """
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
