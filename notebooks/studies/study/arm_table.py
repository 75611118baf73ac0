"""The table of an experiment: means over runs with intervals, differences paired by run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from attnviz.statistics.exact import student_quantile

GROUPS = ("other/land", "other/water", "boat/land", "boat/water")


def interval(values: Sequence[float], *, comparisons: int = 1) -> tuple[float, float, float]:
    """Return mean, and the ends of its 95 % t-interval over runs (infinite for one run).

    Args:
        values: one a run.
        comparisons: intervals that are to hold together; each is widened accordingly.
    """
    n = len(values)
    mean = sum(values) / n
    if n < 2:
        return mean, -math.inf, math.inf
    deviation = math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1))
    half = student_quantile(1 - 0.025 / comparisons, n - 1) * deviation / math.sqrt(n)
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


#: what is drawn against the share of annotated images: line -> arms, from none on
BUDGETS = {
    "energy, masks": (
        ("plain", 0.0), ("energy_5", 0.05), ("energy_10", 0.1), ("energy_25", 0.25),
        ("energy_100", 1.0),
    ),
    "masks chosen by evidence outside": (("plain", 0.0), ("outside_5", 0.05)),
    "masks chosen by mirrored maps": (("plain", 0.0), ("flip_5", 0.05)),
    "masks chosen by class confusion": (("plain", 0.0), ("confusion_5", 0.05)),
    "energy + context, masks": (("plain", 0.0), ("context_25", 0.25), ("context_100", 1.0)),
    "energy + context, boxes": (("plain", 0.0), ("boxes_25", 0.25), ("boxes", 1.0)),
}  # fmt: skip


def budget(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return a Markdown table: worst group by the share of images that are annotated."""
    shares = sorted({share for line in BUDGETS.values() for _, share in line})
    lines = [
        "| annotated | " + " | ".join(f"{100 * s:.0f} %" for s in shares) + " |",
        "|" + " --- |" * (len(shares) + 1),
    ]
    for name, arms in BUDGETS.items():
        cells = []
        for share in shares:
            here = [arm for arm, at in arms if at == share]
            own = [r["test"]["worst"] for r in rows if r["arm"] in here]
            cells.append(_percent(own) if own else "")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def findings(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a sentence an arm: better than plain, worse, or neither, in the worst group.

    By the 95 % interval of the difference paired by run, widened for the number of arms
    (Bonferroni), so that all sentences hold together.
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
        mean, low, high = interval(pairs, comparisons=len(names))
        word = "helps" if low > 0 else "harms" if high < 0 else "makes no sure difference"
        said.append(
            f"{name} {word}: worst group {100 * mean:+.0f} points "
            f"({100 * low:+.0f} to {100 * high:+.0f}) in {len(pairs)} runs"
        )
    return said
