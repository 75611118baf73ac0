"""From columns to a verdict: does the score follow the object or the context, and how surely?

Up to three lines of evidence each give an effect of the context, c, and of the object, o, in units
of the score:

* groups: differences between the four groups' mean scores (main effects of the 2 x 2 table);
* removal: in images with both, what emptying one costs, less what the same operation costs on an
  equally large region of neither;
* transplant: the object on another image with and without the context, against those images alone.

The share of the context is c+ / (c+ + o+), 0 for a reader of the object, 1 for a reader of the
context. Severity is its mean over the lines, with an interval from one joint bootstrap.

`tests/audit/alarm_rates.py` measures how often this is right: planted readers of water and of
boats, CNN and ViT, 80 of 80 (20 seeds each); networks trained without confusion, 20 seeds, no
alarm, severities .03 to .29 (Wilson's interval of the false-alarm rate: 0 to 16 %).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..statistics.clustered import ClusterBootstrap, Estimate
from ..statistics.intervals import Interval
from .table import BOTH, CONTEXT_ALONE, NEITHER, OBJECT_ALONE, AuditTable

#: severity from which on, with confidence, the context counts as relied on, and as what is read
ALARM, MAJOR = 0.25, 0.5


@dataclass(frozen=True)
class Evidence:
    """One line of evidence.

    Attributes:
        name: "groups", "removal" or "transplant".
        context, object: effects on the score, with intervals.
        share: of the context in both.
        images: that it rests on.
    """

    name: str
    context: Interval
    object: Interval
    share: Interval
    images: int


@dataclass(frozen=True)
class Verdict:
    """What the model reads.

    Attributes:
        kind: "context", "both", "object", "neither", "unclear" or "not enough evidence".
        severity: share of the score's evidence that is the context's, 0 to 1; None without
            enough evidence.
        alarm: whether the model surely relies on the context.
        text: one sentence for a reader.
        why: in words, which numbers led to it: the rule that the severity met, what each line
            found, and what is missing or else limits the evidence.
        lines: the evidence.
    """

    kind: str
    severity: Interval | None
    alarm: bool
    text: str
    why: str
    lines: tuple[Evidence, ...]


def evidence_columns(
    table: AuditTable, donor_scores: Sequence[Sequence[float]] | None
) -> dict[str, np.ndarray]:
    """Return the columns that the lines are made of.

    Args:
        table: the images.
        donor_scores: (with, without) context, the donors' own scores, by number of the pair.
    """
    columns = {f"score:{g}": table.only("score", g) for g in range(4)}
    for kind in ("object", "context"):
        for name, values in (
            ("net", table.mean_drop(kind)), ("raw", table.raw_drop(kind)),
        ):  # fmt: skip
            if values is not None:
                columns[f"{name}:{kind}"] = np.where(table.group == BOTH, values, np.nan)
    if donor_scores is not None and "after:paste:with" in table.columns:
        on, off = table.columns["after:paste:with"], table.columns["after:paste:without"]
        alone = [np.asarray(s, np.float32)[table.donor.clip(0)] for s in donor_scores]
        columns["paste:context"] = on - off
        columns["paste:object"] = (on - alone[0] + off - alone[1]) / 2
    return columns


def _positive_share(c: Any, o: Any) -> Any:
    c, o = np.maximum(c, 0), np.maximum(o, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(c + o > 0, c / (c + o), np.nan)


def _group_context(m: Mapping[str, Any]) -> Any:
    return (m["score:3"] - m["score:2"] + m["score:1"] - m["score:0"]) / 2


def _group_object(m: Mapping[str, Any]) -> Any:
    return (m["score:3"] - m["score:1"] + m["score:2"] - m["score:0"]) / 2


def _partial_context(m: Mapping[str, Any]) -> Any:
    return m["score:1"] - m["score:0"]


def _partial_object(m: Mapping[str, Any]) -> Any:
    return m["score:3"] - m["score:1"]


def lines_of(
    boot: ClusterBootstrap, enough: Mapping[str, bool]
) -> list[tuple[str, Any, Any, list[str]]]:
    """Return (name, context effect, object effect, columns) of each line that can be drawn.

    Args:
        boot: over `evidence_columns`.
        enough: column name -> whether it has enough images and clusters.
    """
    found: list[tuple[str, Any, Any, list[str]]] = []
    groups = [f"score:{g}" for g in (BOTH, OBJECT_ALONE, CONTEXT_ALONE, NEITHER)]
    if all(enough[g] for g in groups):
        found.append(("groups", _group_context, _group_object, groups))
    elif all(enough[f"score:{g}"] for g in (BOTH, CONTEXT_ALONE, NEITHER)):
        partial = [f"score:{g}" for g in (BOTH, CONTEXT_ALONE, NEITHER)]
        found.append(("groups", _partial_context, _partial_object, partial))
    for kind in ("net", "raw"):
        names = [f"{kind}:context", f"{kind}:object"]
        if all(enough.get(n, False) for n in names):
            found.append(("removal", lambda m, n=names[0]: m[n], lambda m, n=names[1]: m[n], names))
            break
    names = ["paste:context", "paste:object"]
    if all(enough.get(n, False) for n in names):
        found.append(("transplant", lambda m, n=names[0]: m[n], lambda m, n=names[1]: m[n], names))
    return found


def severity_of(lines: Sequence[tuple[str, Any, Any, list[str]]]) -> Any:
    """Return the function of column means that gives the severity."""

    def severity(m: Mapping[str, Any]) -> Any:
        shares = np.stack([np.asarray(_positive_share(c(m), o(m))) for _, c, o, _ in lines])
        known = ~np.isnan(shares)
        counted = known.sum(0)
        total = np.where(known, shares, 0).sum(0)
        return np.where(counted > 0, total / np.maximum(counted, 1), np.nan)

    return severity


def judge(
    boot: ClusterBootstrap,
    enough: Mapping[str, bool],
    *,
    object: str,
    context: str,
    facts: str,
    missing: str,
    note: str = "",
) -> Verdict:
    """Return the verdict.

    Args:
        boot: over `evidence_columns`.
        enough: column name -> whether it has enough images and clusters.
        object, context: names.
        facts: the second half of the sentence: where the evidence lies, what removal costs.
        missing: which groups are too small.
        note: what else a reader must know of the evidence.
    """
    drawn = lines_of(boot, enough)
    if not drawn:
        return Verdict(
            "not enough evidence", None, False,
            f"not enough evidence to tell whether the model reads the {object} or the {context}: "
            f"{missing}",
            missing, (),
        )  # fmt: skip
    lines, effects = [], []
    for name, c, o, columns in drawn:
        context_effect, object_effect = boot.estimate(c, columns), boot.estimate(o, columns)
        share = within(
            boot.estimate(lambda m, c=c, o=o: _positive_share(c(m), o(m)), columns).interval
        )
        lines.append(
            Evidence(
                name, context_effect.interval, object_effect.interval, share, share.images,
            )
        )  # fmt: skip
        effects.append((context_effect, object_effect))
    columns = [name for _, _, _, names in drawn for name in names]
    severity = within(boot.estimate(severity_of(drawn), columns).interval)
    kind, rule = _kind(severity, lines, effects, context)
    found = [_line_in_words(line, object, context) for line in lines]
    why = "; ".join(filter(None, (rule, *found, missing, note)))
    text = _sentence(kind, severity, object, context, facts)
    return Verdict(kind, severity, kind in ("context", "both"), text, why, tuple(lines))


def within(interval: Interval) -> Interval:
    """Return the interval of a share, cut off at 0 and 1."""
    low, high = max(interval.low, 0.0), min(interval.high, 1.0)
    return Interval(interval.value, low, high, interval.level, interval.images)


def _kind(
    severity: Interval,
    lines: Sequence[Evidence],
    effects: Sequence[tuple[Estimate, Estimate]],
    context: str,
) -> tuple[str, str]:
    """Return the kind of verdict, and the rule that gives it."""
    share = f"the {context}'s share of the evidence, {_span(severity)},"
    moved = [c.interval.low > 0 for c, _ in effects]
    held = [o.interval.low > 0 for _, o in effects]
    if not any(moved) and not any(held):
        return "neither", "neither of the two moves the score measurably"
    if np.isnan(severity.low):
        return "unclear", "the shares of object and context have no interval"
    against = [line.name for line in lines if line.share.high < ALARM]
    if severity.low > ALARM and 2 * sum(moved) >= len(moved):
        if against:
            return "unclear", f"the line {against[0]!r} says otherwise than the others"
        if severity.low > MAJOR:
            return "context", f"{share} is surely above {MAJOR:g}"
        return "both", f"{share} is surely above {ALARM:g}, and not surely above {MAJOR:g}"
    if severity.high < MAJOR and any(held):
        return "object", f"{share} is surely below {MAJOR:g}"
    if severity.low > ALARM:
        return "unclear", f"{share} is above {ALARM:g}, but most lines have no sure effect of it"
    return "unclear", f"{share} has too wide an interval to tell"


#: how each line of evidence was got
_WAYS = {
    "groups": "between the groups", "removal": "when either is taken away",
    "transplant": "when the {object} is put elsewhere",
}  # fmt: skip


def _line_in_words(line: Evidence, object: str, context: str) -> str:
    way = _WAYS[line.name].format(object=object)
    return (
        f"{way} the {context} moves the log-odds of {object} by {_span(line.context)} and the "
        f"{object} by {_span(line.object)} ({line.images} images)"
    )


def _span(interval: Interval) -> str:
    return f"{interval.value:.2f} [{interval.low:.2f}, {interval.high:.2f}]"


def _sentence(kind: str, severity: Interval, object: str, context: str, facts: str) -> str:
    head = {
        "context": f"reads the {context}",
        "both": f"leans on the {context} as well as on the {object}",
        "object": f"reads the {object}",
        "neither": f"reads neither the {object} nor the {context}",
        "unclear": f"unclear whether it reads the {object} or the {context}",
    }[kind]
    return f"{head}: {facts}; severity {_span(severity)}" if facts else (
        f"{head}; severity {_span(severity)}"
    )  # fmt: skip
