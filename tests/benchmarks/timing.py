"""CPU time of runs that take turns in one process, and their ratios."""

from __future__ import annotations

import statistics
import time


def compare(runs, rounds):
    """Interleave the runs; return {name: CPU seconds of each round}."""
    times = {name: [] for name in runs}
    for fn in runs.values():
        fn()
    for i in range(rounds):
        order = list(runs.items())
        for name, fn in order[i % len(order) :] + order[: i % len(order)]:
            start = time.process_time()
            fn()
            times[name].append(time.process_time() - start)
    return times


def ratio(times, name, base):
    """Return the median over rounds of one run's time over another's beside it, in words."""
    pairs = [a / b for a, b in zip(times[name], times[base], strict=True)]
    q = statistics.quantiles(pairs, n=4)
    return f"{statistics.median(pairs):.3f} (quartiles {q[0]:.3f}-{q[2]:.3f})"
