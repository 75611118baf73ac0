"""The table of an experiment: means over runs with intervals, differences paired by run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

#: two-sided 95 % quantiles of Student's t, by degrees of freedom
_T = (12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179)
GROUPS = ("other/land", "other/water", "boat/land", "boat/water")


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return mean, and the ends of its 95 % t-interval over runs (infinite for one run)."""
    n = len(values)
    mean = sum(values) / n
    if n < 2:
        return mean, -math.inf, math.inf
    deviation = math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1))
    half = _T[min(n - 2, len(_T) - 1)] * deviation / math.sqrt(n)
    return mean, mean - half, mean + half


def _percent(values: Sequence[float]) -> str:
    mean, low, high = interval(values)
    if math.isinf(low):
        return f"{100 * mean:.0f}"
    return f"{100 * mean:.0f} ({100 * low:.0f} to {100 * high:.0f})"


def table(rows: Sequence[Mapping[str, Any]], summaries: Mapping[str, str]) -> str:
    """Return a Markdown table of the test figures, one line an arm.

    Worst is the mean over runs of each run's worst group. Differences to plain are paired by
    fold and seed. Without moved biases (chosen on validation), plain training answers by the
    context alone. Intervals are over runs: folds share photos between their trainings, so they
    are narrower than those of a new collection of photos would be.
    """
    header = ["arm", "runs", *GROUPS, "worst group", "worst - plain", "worst, biases unmoved",
        "energy", "energy / chance"]  # fmt: skip
    lines = [f"| {' | '.join(header)} |", "|" + " --- |" * len(header)]
    plain = {(r["fold"], r["seed"]): r["test"] for r in rows if r["arm"] == "plain"}
    for name in summaries:
        own = [r for r in rows if r["arm"] == name]
        if not own:
            continue
        tests = [r["test"] for r in own]
        paired = [
            r["test"]["worst"] - plain[r["fold"], r["seed"]]["worst"]
            for r in own
            if (r["fold"], r["seed"]) in plain
        ]
        ratio = [t["energy"] / t["chance"] for t in tests]
        mean, low, high = interval(ratio)
        cells = [
            f"{name}: {summaries[name]}",
            str(len(own)),
            *(_percent([t["accuracy"][g] for t in tests]) for g in range(4)),
            _percent([t["worst"] for t in tests]),
            _percent(paired) if paired else "",
            _percent([r["unmoved"]["test"]["worst"] for r in own]),
            _percent([t["energy"] for t in tests]),
            f"{mean:.1f}" + ("" if math.isinf(low) else f" ({low:.1f} to {high:.1f})"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
