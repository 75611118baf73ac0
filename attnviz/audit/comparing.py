"""Before and after: two models on the same images, paired."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import DataError
from ..statistics.exact import mcnemar
from ..statistics.intervals import Interval
from ..statistics.resampling import holm
from .examples import Example
from .result import AuditResult, plain
from .running import confusion
from .summary import ORDER, Names, Thresholds, bootstrap_of, percent
from .table import AuditTable


@dataclass(frozen=True)
class Change:
    """One figure before and after.

    Attributes:
        what: "right", "score", or "energy in REGION".
        group: name, or "all".
        before, after: means.
        difference: after less before, paired by image, with its clustered interval.
        p: two-sided; exact McNemar for "right", of the clustered bootstrap otherwise.
        adjusted: p after Holm over all changes.
        better, worse: images that came right, and that went wrong (for "right").
    """

    what: str
    group: str
    before: float
    after: float
    difference: Interval
    p: float
    adjusted: float
    better: int = 0
    worse: int = 0

    @property
    def significant(self) -> bool:
        """Whether it stands after Holm, and its clustered interval leaves zero out."""
        return self.adjusted < 0.05 and (self.difference.low > 0 or self.difference.high < 0)


@dataclass(frozen=True, eq=False)
class ChangedAnswer:
    """An image whose answer changed, as both models see it.

    Attributes:
        id, group: names.
        better: it came right; else it went wrong.
        before, after: the image with each model's map and score.
    """

    id: str
    group: str
    better: bool
    before: Example
    after: Example


@dataclass(frozen=True, eq=False)
class BeforeAfter:
    """Two audits of the same images.

    Attributes:
        before, after: the audits.
        changes: paired.
        better, worse: ids of images that came right, and that went wrong; the greatest change of
            the score first.
        text: one sentence.
        shown: the first of both, with maps before and after, for the report.
    """

    before: AuditResult
    after: AuditResult
    changes: tuple[Change, ...]
    better: tuple[str, ...]
    worse: tuple[str, ...]
    text: str
    shown: tuple[ChangedAnswer, ...] = field(default=(), repr=False)

    def __str__(self) -> str:
        return self.text

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {
            "schema": "attnviz.audit-comparison",
            "schema_version": 1,
            "text": self.text,
            "changes": [plain(c) | {"significant": c.significant} for c in self.changes],
            "better": list(self.better),
            "worse": list(self.worse),
            "before": self.before.as_dict(),
            "after": self.after.as_dict(),
        }

    def save(self, folder: Any, *, force: bool = False) -> dict[str, Any]:
        """Write report.html, audit.json and images.csv; return their paths."""
        from ..report import write_audit

        return write_audit(self.after, folder, comparison=self, force=force)


def against(before: Any, after: Any, data: Any, **options: Any) -> BeforeAfter:
    """Audit two models on the same images and compare them.

    Args:
        before, after: models, as `confusion` takes them.
        data: images that neither was trained on.
        **options: of `confusion`, the same for both.
    """
    journal = options.pop("journal", None)
    results = []
    for model, name in ((before, "before"), (after, "after")):
        path = None if journal is None else f"{journal}.{name}"
        results.append(confusion(model, data, journal=path, **options))
    return compare(*results)


def compare(before: AuditResult, after: AuditResult, *, examples: int = 6) -> BeforeAfter:
    """Compare two audits of the same images.

    Accuracy by exact McNemar in each group, scores and energies by the clustered bootstrap of
    paired differences; Holm over all of them together.

    Args:
        before, after: what `confusion` gave.
        examples: how many images that came right, and that went wrong, are kept with the maps of
            both models; each is run once more.

    Raises:
        DataError: other images, another object or context.
    """
    same = before.table.ids == after.table.ids and bool(
        (before.table.group == after.table.group).all()
    )
    if not same or (before.object, before.context) != (after.object, after.context):
        raise DataError(
            f"the audits are of unlike images or questions ({before.images} and {after.images} "
            f"images, {before.object}/{before.context} and {after.object}/{after.context}); run "
            "both on the same data"
        )
    names = Names(before.object, before.context)
    options = after.settings
    limits = Thresholds(
        options["min_images"], options["min_clusters"], options["level"], options["resamples"],
        options["seed"],
    )  # fmt: skip
    pairs = _pairs(before.table, after.table, names)
    boot = bootstrap_of(
        after.table, {k: b - a for k, (_, _, a, b) in pairs.items()}, limits
    )  # fmt: skip
    drawn: list[dict[str, Any]] = []
    for key, (what, group, a, b) in pairs.items():
        known = ~np.isnan(a) & ~np.isnan(b)
        estimate = boot.estimate(key)
        gained, lost = int((b > a)[known].sum()), int((b < a)[known].sum())
        right = what == "right"
        drawn.append(
            {
                "what": what, "group": group, "before": float(a[known].mean()),
                "after": float(b[known].mean()), "difference": estimate.interval,
                "p": mcnemar(lost, gained) if right else estimate.p,
                "better": gained if right else 0, "worse": lost if right else 0,
            }
        )  # fmt: skip
    adjusted = holm([d["p"] for d in drawn])
    changes = tuple(Change(**d, adjusted=p) for d, p in zip(drawn, adjusted, strict=True))
    better, worse = _moved(before.table, after.table)
    ids = before.table.ids
    return BeforeAfter(
        before, after, changes, tuple(ids[i] for i in better), tuple(ids[i] for i in worse),
        text=_sentence(before, after, changes),
        shown=(
            *_shown(before, after, better[:examples], True),
            *_shown(before, after, worse[:examples], False),
        ),
    )  # fmt: skip


def _shown(
    before: AuditResult, after: AuditResult, rows: Sequence[int], better: bool
) -> Iterator[ChangedAnswer]:
    if before.illustrate is None or after.illustrate is None or not len(rows):
        return
    # none of either, where a model has other weights by now
    for a, b in zip(before.illustrate(rows), after.illustrate(rows), strict=False):
        yield ChangedAnswer(a.id, a.group, better, a, b)


def _pairs(
    a: AuditTable, b: AuditTable, names: Names
) -> dict[str, tuple[str, str, np.ndarray, np.ndarray]]:
    found: dict[str, tuple[str, str, np.ndarray, np.ndarray]] = {
        "right:all": ("right", "all", a.right, b.right)
    }
    maps = next((m for m in a.methods() if m in b.methods() and m != "attention"), None)
    for g in ORDER:
        for name in ("right", "score"):
            found[f"{name}:{g}"] = (name, names.group(g), a.only(name, g), b.only(name, g))
        for region in ("object", "context") if maps else ():
            column = f"map:{maps}:{region}"
            if column in a.columns and column in b.columns:
                found[f"{column}:{g}"] = (
                    f"energy in {getattr(names, region)}", names.group(g), a.only(column, g),
                    b.only(column, g),
                )  # fmt: skip
    return {k: v for k, v in found.items() if not np.isnan(v[3] - v[2]).all()}


def _moved(a: AuditTable, b: AuditTable) -> tuple[list[int], list[int]]:
    """Return the rows that came right, and that went wrong, the greatest change first."""
    sign = np.where(a.group >= 2, 1, -1)
    gain = sign * (b.columns["score"] - a.columns["score"])
    better = np.flatnonzero(b.right > a.right)
    worse = np.flatnonzero(b.right < a.right)
    return (
        better[np.argsort(-gain[better], kind="stable")].tolist(),
        worse[np.argsort(gain[worse], kind="stable")].tolist(),
    )


def _sentence(before: AuditResult, after: AuditResult, changes: tuple[Change, ...]) -> str:
    parts = []
    if before.severity is not None and after.severity is not None:
        parts.append(
            f"severity {before.severity.value:.2f} to {after.severity.value:.2f} "
            f"(the context's share of the evidence)"
        )
    a = {c.name: c for c in before.cells}
    b = {c.name: c for c in after.cells}
    known = [c for c in before.cells if c.images]
    if known:
        name = min(known, key=lambda c: c.right.value).name
        parts.append(
            f"'{name}' {percent(a[name].right)} to {percent(b[name].right)} right"
        )  # fmt: skip
    stands = [c for c in changes if c.significant and c.what == "right"]
    gains = [c for c in stands if c.difference.value > 0]
    losses = [c for c in stands if c.difference.value < 0]
    for word, rows in (("better", gains), ("worse", losses)):
        if rows:
            groups = ", ".join(f"'{c.group}'" for c in rows if c.group != "all")
            where = ["over all images"] * any(c.group == "all" for c in rows)
            where += [f"in {groups}"] * bool(groups)
            parts.append(f"answers got {word} {' and '.join(where)}, beyond chance (Holm)")
    if not stands:
        parts.append("no change of the answers is beyond chance (Holm)")
    return "; ".join(parts)
