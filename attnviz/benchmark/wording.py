"""A metric's table in words: its headline, and what the tests say."""

from __future__ import annotations

import math

from .summary import ALPHA, MetricTable


def headline(table: MetricTable) -> str:
    """Return a metric's name, which end is better, and its protocol."""
    arrow = {True: "higher is better", False: "lower is better", None: "neither end is better"}
    return f"{table.key} ({arrow[table.higher_is_better]})  {table.protocol}"


def notes(table: MetricTable) -> list[str]:
    """Return whether the ranking survives other baselines, and what the tests say, in words."""
    found = [] if table.ranking is None else [f"over the baselines: {table.ranking}"]
    tests = [test for test in table.tests if not math.isnan(test.p)]
    images = max((test.images for test in tests), default=0)
    # all signs alike is the most extreme there is: p = 2 / 2^n
    needed = 1 + math.ceil(math.log2(max(1, len(tests)) / ALPHA))
    if tests and images < needed:
        found.append(
            f"{images} images cannot show a difference in {len(tests)} "
            f"test{'s' * (len(tests) != 1)}: at least {needed} are needed"
        )
        return found
    return found + _pairs(table)


def _pairs(table: MetricTable) -> list[str]:
    controls = {row.name for row in table.rows if row.control}
    found = []
    for test in table.tests:
        if test.second in controls or math.isnan(test.p):
            continue
        word = "differ" if test.adjusted < ALPHA else "not told apart"
        found.append(
            f"{test.first} - {test.second}: {test.difference:+.4f}, {word} "
            f"(p = {test.adjusted:.2g} after correction, {test.images} images)"
        )
    return found
