"""Does the order of the methods survive another protocol, such as another baseline?"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import MetricError
from .scores import Scores


@dataclass(frozen=True)
class RankingStability:
    """How one order of methods compares over several protocols.

    Attributes:
        orders: protocol's label -> methods from best to worst.
        tau: the least Kendall tau-b between two of the orders, -1 to 1.
        best: the method that is best in all of them, or None.
    """

    orders: Mapping[str, tuple[str, ...]]
    tau: float
    best: str | None

    def __str__(self) -> str:
        labels = ", ".join(self.orders)
        firsts = {order[0] for order in self.orders.values()}
        if self.best is None:
            changing = ", ".join(sorted(firsts))
            return f"the best method changes over {labels} ({changing}); tau >= {self.tau:.2f}"
        word = "ranking survives" if self.tau == 1 else f"{self.best} stays best"
        return f"{word} over {labels}; tau >= {self.tau:.2f}"


def kendall(a: list[float], b: list[float]) -> float:
    """Return Kendall's tau-b of two lists of numbers; NaN where one is constant."""
    score = ties_a = ties_b = 0
    total = 0
    for (p, q), (r, s) in itertools.combinations(zip(a, b, strict=True), 2):
        total += 1
        ties_a += p == r
        ties_b += q == s
        score += ((p > r) - (p < r)) * ((q > s) - (q < s))
    scale = ((total - ties_a) * (total - ties_b)) ** 0.5
    return score / scale if scale else float("nan")


def ranking_stability(results: Mapping[str, Mapping[str, Scores]]) -> RankingStability:
    """Return whether methods keep their order over protocols.

    Args:
        results: protocol's label (such as the baseline) -> method -> result. The protocols differ
            on purpose, so only the orders are compared, never the numbers.

    Raises:
        MetricError: fewer than two protocols or methods, unlike methods, or a metric without a
            better end.
    """
    if len(results) < 2:
        raise MetricError("a ranking's stability needs at least two protocols")
    methods = list(next(iter(results.values())))
    if len(methods) < 2:
        raise MetricError("a ranking needs at least two methods")
    numbers: dict[str, list[float]] = {}
    orders: dict[str, tuple[str, ...]] = {}
    for label, by_method in results.items():
        if set(by_method) != set(methods):
            raise MetricError(
                f"{label} has methods {sorted(by_method)}, expected {sorted(methods)}"
            )
        better = by_method[methods[0]].protocol.higher_is_better
        if better is None:
            raise MetricError(f"{by_method[methods[0]].protocol} has no better end to rank by")
        sign = 1 if better else -1
        numbers[label] = [sign * by_method[m].summary() for m in methods]
        order = sorted(range(len(methods)), key=lambda i: -numbers[label][i])
        orders[label] = tuple(methods[i] for i in order)
    taus = [kendall(a, b) for a, b in itertools.combinations(numbers.values(), 2)]
    known = [t for t in taus if t == t]
    firsts = {order[0] for order in orders.values()}
    return RankingStability(
        orders, min(known) if known else float("nan"), firsts.pop() if len(firsts) == 1 else None
    )
