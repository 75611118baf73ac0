"""The sign-flip test of paired differences, and Holm's correction for several tests."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

#: up to so many images all sign patterns are counted out
_EXACT = 16


def sign_flip_test(difference: Tensor, *, resamples: int = 10_000, seed: int = 0) -> float:
    """Return the two-sided p of paired differences under random signs (Fisher's randomisation).

    Exact up to 16 images. Beyond, the share of `resamples` random sign patterns at least as
    extreme, the observed one counted in, so that p is never 0.

    Args:
        difference: (n,) differences of two methods, per image.
        resamples: random patterns beyond 16 images.
        seed: of the patterns.

    Returns:
        p in (0, 1]; NaN for no image.
    """
    d = difference.double().cpu().flatten()
    n = len(d)
    if n == 0:
        return float("nan")
    observed = d.sum().abs()
    # sums of the same numbers in another order differ in their last bits
    slack = 1e-12 * float(d.abs().sum())
    if n <= _EXACT:
        bits = torch.arange(2**n)[:, None] >> torch.arange(n)[None] & 1
        sums = ((1 - 2 * bits).double() @ d).abs()
        return float((sums >= observed - slack).double().mean())
    draw = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, (resamples, n), generator=draw).mul_(2).sub_(1).double()
    extreme = int(((signs @ d).abs() >= observed - slack).sum())
    return (extreme + 1) / (resamples + 1)


def holm(p: Sequence[float]) -> list[float]:
    """Return p values corrected for their number (Holm, 1979); NaN stays and is not counted."""
    known = sorted((value, i) for i, value in enumerate(p) if not math.isnan(value))
    adjusted = [float("nan")] * len(p)
    greatest = 0.0
    for rank, (value, i) in enumerate(known):
        greatest = max(greatest, min(1.0, value * (len(known) - rank)))
        adjusted[i] = greatest
    return adjusted
