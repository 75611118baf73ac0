"""Bootstrap over clusters: what would other boats on other waters have given?

Images that share a cut-out, a video or a background are not independent, so whole clusters are
redrawn, not images. With two crossed factors (source of the object, source of the background)
both are redrawn and an image counts by the product of its clusters' multiplicities (the pigeonhole
bootstrap of Owen, Annals of Applied Statistics 2007): its variance is right where the factors
dominate, and too large, never too small, where images are independent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .exact import normal_quantile, student_quantile, student_tail
from .intervals import Interval

#: replicates whose weights are held at a time
_CHUNK = 64

Statistic = Callable[[Mapping[str, np.ndarray]], np.ndarray]


def numbered(names: Sequence[Hashable]) -> np.ndarray:
    """Return names as whole numbers from 0, equal where the names are equal."""
    known: dict[Hashable, int] = {}
    return np.array([known.setdefault(name, len(known)) for name in names], np.int64)


def crossed(*factors: Sequence[Hashable]) -> list[np.ndarray]:
    """Return the factors that must be redrawn, each as numbers.

    A factor that another one determines (each cut-out has one background) adds nothing, and
    redrawing both would count the same chance twice: of nested factors only the coarser stays.
    """
    kept: list[np.ndarray] = []
    for names in factors:
        factor = numbered(names)
        for i, other in enumerate(kept):
            pairs = len(set(zip(factor.tolist(), other.tolist(), strict=True)))
            if pairs == _count(other):  # each of `other`'s clusters lies in one of `factor`'s
                kept[i] = factor
                break
            if pairs == _count(factor):
                break
        else:
            kept.append(factor)
    return kept


def _count(factor: np.ndarray) -> int:
    return int(factor.max()) + 1 if len(factor) else 0


@dataclass(frozen=True)
class Estimate:
    """A statistic with its interval and the p of its being zero."""

    interval: Interval
    p: float
    clusters: int

    @property
    def known(self) -> bool:
        """Whether there is an interval at all."""
        return not math.isnan(self.interval.low)


class ClusterBootstrap:
    """Joint bootstrap of the means of many columns, and of any function of them.

    Args:
        columns: name -> (n,) float, NaN where an image does not count for it.
        clusters: factors (n,) to redraw, as `crossed` gives them.
        other: column name -> its own factors, where they differ.
        resamples: replicates.
        level: coverage of intervals.
        seed: of the redrawing.
    """

    def __init__(
        self,
        columns: Mapping[str, np.ndarray],
        clusters: Sequence[np.ndarray],
        *,
        other: Mapping[str, Sequence[np.ndarray]] | None = None,
        resamples: int = 1000,
        level: float = 0.95,
        seed: int = 0,
    ) -> None:
        self.level = level
        self.names = list(columns)
        self.point: dict[str, np.ndarray] = {}
        self.replicates: dict[str, np.ndarray] = {}
        self.images: dict[str, int] = {}
        self.clusters: dict[str, int] = {}
        other = dict(other or {})
        groups: dict[int, tuple[Sequence[np.ndarray], list[str]]] = {}
        for name in self.names:
            factors = other.get(name, clusters)
            groups.setdefault(id(factors), (factors, []))[1].append(name)
        for factors, names in groups.values():
            self._draw(columns, factors, names, resamples, seed)

    def _draw(
        self,
        columns: Mapping[str, np.ndarray],
        factors: Sequence[np.ndarray],
        names: list[str],
        resamples: int,
        seed: int,
    ) -> None:
        values = np.stack([np.asarray(columns[n], np.float64) for n in names], 1)
        valid = ~np.isnan(values)
        values = np.where(valid, values, 0.0)
        counted = valid.sum(0)
        total = np.divide(
            values.sum(0), counted, out=np.full(len(names), np.nan), where=counted > 0
        )
        drawn = np.empty((resamples, len(names)))
        # one generator a factor: the same seed redraws the same clusters for every set of columns
        streams = [np.random.default_rng((seed, number)) for number in range(len(factors))]
        for start in range(0, resamples, _CHUNK):
            count = min(_CHUNK, resamples - start)
            weights = np.ones((count, len(values)))
            for factor, stream in zip(factors, streams, strict=True):
                size = _count(factor)
                times = stream.multinomial(size, np.full(size, 1 / size), count)
                weights *= times[:, factor]
            mass = weights @ valid
            drawn[start : start + count] = np.divide(
                weights @ values, mass, out=np.full(mass.shape, np.nan), where=mass > 0
            )
        for column, name in enumerate(names):
            rows = valid[:, column]
            self.point[name] = total[column]
            self.replicates[name] = drawn[:, column]
            self.images[name] = int(counted[column])
            sizes = [len(np.unique(f[rows])) for f in factors]
            self.clusters[name] = min(sizes) if sizes else 0

    def estimate(self, statistic: str | Statistic, columns: Sequence[str] = ()) -> Estimate:
        """Return a statistic with its percentile interval, widened for few clusters.

        The percentile interval's half-lengths are scaled by t / z and sqrt(G / (G - 1)) with G
        the smallest number of clusters involved (Hesterberg, The American Statistician 2015).
        Fewer than two clusters, or a column without images, leave the interval unknown (NaN).

        Args:
            statistic: a column's name, or a function of name -> mean that works on arrays.
            columns: names that the function reads.
        """
        if isinstance(statistic, str):
            columns, name = (statistic,), statistic
            statistic = lambda m: m[name]  # noqa: E731
        value = float(statistic(self.point))
        images = min(self.images[c] for c in columns)
        g = min(self.clusters[c] for c in columns)
        with np.errstate(invalid="ignore", divide="ignore"):
            found = np.asarray(statistic(self.replicates), np.float64)
        found = found[~np.isnan(found)]
        unknown = Interval(value, math.nan, math.nan, self.level, images)
        if g < 2 or math.isnan(value) or len(found) < 0.5 * len(self.replicates[columns[0]]):
            return Estimate(unknown, math.nan, g)
        tail = (1 - self.level) / 2
        low, high = np.quantile(found, [tail, 1 - tail])
        wider = student_quantile(1 - tail, g - 1) / normal_quantile(1 - tail)
        wider *= math.sqrt(g / (g - 1))
        low, high = value - (value - low) * wider, value + (high - value) * wider
        spread = float(found.std(ddof=1)) * math.sqrt(g / (g - 1))
        p = student_tail(value / spread, g - 1) if spread > 0 else float(value == 0)
        return Estimate(
            Interval(value, min(float(low), value), max(float(high), value), self.level, images),
            p,
            g,
        )
