"""Paired tests: is one method better than another on the same images, many methods at once?"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import MetricError
from .protocol import require_alike
from .scores import Scores

#: up to so many images all sign patterns are counted out
_EXACT = 16


@dataclass(frozen=True)
class Comparison:
    """Two methods on the same images.

    Attributes:
        first: name of a method.
        second: name of the other.
        difference: mean over images of first minus second.
        p: two-sided probability of a difference as large if the methods were exchangeable.
        adjusted: p after Holm's correction over all comparisons made together.
        images: how many counted in both.
    """

    first: str
    second: str
    difference: float
    p: float
    adjusted: float
    images: int

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values; NaN becomes None."""
        return {
            k: None if isinstance(v, float) and math.isnan(v) else v for k, v in vars(self).items()
        }


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


def compare_methods(
    scores: Mapping[str, Scores],
    *,
    pairs: Sequence[tuple[str, str]] | None = None,
    resamples: int = 10_000,
    seed: int = 0,
) -> list[Comparison]:
    """Return pairs of methods tested on the images that count for both, Holm-corrected.

    Args:
        scores: method -> its result, all on the same images in the same order.
        pairs: which to test, and so the number corrected for; None is every pair.
        resamples: see `sign_flip_test`.
        seed: see `sign_flip_test`.

    Raises:
        MetricError: unlike protocols, or unlike numbers of images.
    """
    require_alike(s.protocol for s in scores.values())
    counts = {name: len(s) for name, s in scores.items()}
    if len(set(counts.values())) > 1:
        raise MetricError(f"methods were run on unlike numbers of images: {counts}")
    rows = []
    for a, b in itertools.combinations(scores, 2) if pairs is None else pairs:
        first, second = scores[a], scores[b]
        both = (first.valid & second.valid.to(first.valid.device)).cpu()
        d = first.values.cpu().double()[both] - second.values.cpu().double()[both]
        p = sign_flip_test(d, resamples=resamples, seed=seed)
        rows.append((a, b, float(d.mean()) if len(d) else float("nan"), p, len(d)))
    corrected = holm([row[3] for row in rows])
    return [
        Comparison(a, b, difference, p, adjusted, n)
        for (a, b, difference, p, n), adjusted in zip(rows, corrected, strict=True)
    ]
