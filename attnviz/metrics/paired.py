"""Paired tests: is one method better than another on the same images, many methods at once?"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import MetricError
from ..statistics.resampling import holm, sign_flip_test
from .protocol import require_alike
from .scores import Scores


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
