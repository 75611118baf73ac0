"""The table of an experiment: means over runs with intervals, differences paired by run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from attnviz.statistics.exact import student_quantile
from study.arm_list import Arm

GROUPS = ("other/land", "other/water", "boat/land", "boat/water")


def interval(
    values: Sequence[float],
    *,
    comparisons: int = 1,
    bounds: tuple[float, float] | None = None,
    objects: float | None = None,
) -> tuple[float, float, float]:
    """Return mean, and the ends of its 95 % t-interval over runs (the bounds for one run).

    Args:
        values: one a run.
        comparisons: intervals that are to hold together; each is widened accordingly.
        bounds: what the values cannot leave, such as (0, 1) for shares; the interval ends there.
        objects: different objects that all runs together were judged on, where runs share them:
            more runs do not make them more, so the variance of a share of so many is added.
    """
    low, high = bounds or (-math.inf, math.inf)
    n = len(values)
    mean = sum(values) / n
    if n < 2:
        return mean, low, high
    variance = sum((v - mean) ** 2 for v in values) / (n - 1) / n
    half = student_quantile(1 - 0.025 / comparisons, n - 1) * math.sqrt(variance)
    if objects:
        # of the share with one more right and one more wrong: none has no variance otherwise
        share = (mean * objects + 1) / (objects + 2)
        half = math.hypot(half, 1.96 * math.sqrt(share * (1 - share) / objects))
    return mean, max(mean - half, low), min(mean + half, high)


def _percent(values: Sequence[float], objects: float | None = None) -> str:
    mean, low, high = interval(values, bounds=(0.0, 1.0), objects=objects)
    if len(values) < 2:
        return f"{100 * mean:.0f}"
    return f"{100 * mean:.0f} ({100 * low:.0f} to {100 * high:.0f})"


def _objects(rows: Sequence[Mapping[str, Any]]) -> list[float]:
    """Different objects of each group in all folds together; seeds put the same ones together."""
    folds: dict[int, list[Sequence[int]]] = {}
    for row in rows:
        if "objects" in row:
            folds.setdefault(row["fold"], []).append(row["objects"])
    return [sum(sum(o[g] for o in own) / len(own) for own in folds.values()) for g in range(4)]


def table(
    rows: Sequence[Mapping[str, Any]],
    arms: Sequence[Arm],
    groups: Sequence[str] = GROUPS,
    *,
    shared: bool = True,
) -> str:
    """Return a Markdown table of the test figures, one line an arm.

    Worst is the mean over runs of each run's worst group, as trained and with moved biases; AUC is
    of the third group over the second, which no bias changes. Ordinary are images of the
    training's kind. Intervals are over runs, and where runs share test objects also over these:
    the fewest that a group has for the worst group, none for ordinary images and the AUC.
    """
    header = ["arm", "given", "runs", *groups, "worst group", "AUC", "ordinary",
        "worst, biases moved", "ordinary, biases moved", "energy / chance"]  # fmt: skip
    lines = [f"| {' | '.join(header)} |", "|" + " --- |" * len(header)]
    for arm in arms:
        own = [r for r in rows if r["arm"] == arm.name]
        if not own:
            continue
        ratio = [r["energy"] / r["chance"] for r in own if r["energy"] is not None]
        mean, low, high = interval([r["auc"] for r in own], bounds=(0.0, 1.0))
        counts = _objects(own) if shared else [0.0] * 4
        cells = [
            f"{arm.name}: {arm.summary}", arm.given, str(len(own)),
            *(_percent([r["test"]["accuracy"][g] for r in own], counts[g]) for g in range(4)),
            _percent([r["test"]["worst"] for r in own], min(counts)),
            f"{mean:.2f}" + (f" ({low:.2f} to {high:.2f})" if len(own) > 1 else ""),
            _percent([r["test"]["ordinary"] for r in own]),
            _percent([r["moved"]["worst"] for r in own], min(counts)),
            _percent([r["moved"]["ordinary"] for r in own]),
            f"{sum(ratio) / len(ratio):.1f}" if ratio else "",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def findings(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a sentence an arm: better than plain, worse, or neither, in the worst group.

    By the 95 % interval of the difference paired by run, widened for the number of arms
    (Bonferroni), so that all sentences hold together; biases as trained.
    """
    plain = {(r["fold"], r["seed"]): r["test"]["worst"] for r in rows if r["arm"] == "plain"}
    names = [n for n in dict.fromkeys(r["arm"] for r in rows) if n != "plain"]
    said = []
    for name in names:
        pairs = [
            r["test"]["worst"] - plain[key]
            for r in rows
            if r["arm"] == name and (key := (r["fold"], r["seed"])) in plain
        ]
        if len(pairs) < 2:
            continue
        mean, low, high = interval(pairs, comparisons=len(names), bounds=(-1.0, 1.0))
        word = "helps" if low > 0 else "harms" if high < 0 else "makes no sure difference"
        said.append(
            f"{name} {word}: worst group {100 * mean:+.0f} points "
            f"({100 * low:+.0f} to {100 * high:+.0f}) in {len(pairs)} runs"
        )
    return said
