"""From the table of an audit to its 2 x 2 table, places, counterfactuals and verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..statistics.clustered import ClusterBootstrap, crossed
from ..statistics.exact import mcnemar, wilson
from ..statistics.intervals import Interval
from ..statistics.resampling import holm
from .pictures import BACKGROUND
from .result import Cell, Effect, Place, Pointing
from .table import BOTH, CONTEXT_ALONE, NEITHER, OBJECT_ALONE, AuditTable
from .verdict import Verdict, evidence_columns, judge, lines_of, within

#: mean area of the controls over that of their regions, below which a result says so
_ROOM = 0.9
ORDER = (BOTH, OBJECT_ALONE, CONTEXT_ALONE, NEITHER)


@dataclass(frozen=True)
class Names:
    """What things are called."""

    object: str
    context: str

    @property
    def groups(self) -> tuple[int, ...]:
        """Numbers of the groups; two where the context is what surrounds the object."""
        return (BOTH, NEITHER) if self.context == BACKGROUND else ORDER

    def group(self, number: int) -> str:
        """Return a group's name: 'boat, water', 'boat, no water' ..., or 'boat', 'no boat'."""
        has, around = number >= 2, number % 2
        if self.context == BACKGROUND:
            return f"{'' if has else 'no '}{self.object}"
        return f"{'' if has else 'no '}{self.object}, {'' if around else 'no '}{self.context}"


@dataclass(frozen=True)
class Thresholds:
    """What counts as enough.

    Attributes:
        images, clusters: least number in a group.
        level: of intervals. resamples, seed: of the bootstrap.
    """

    images: int = 10
    clusters: int = 5
    level: float = 0.95
    resamples: int = 1000
    seed: int = 0


@dataclass(frozen=True)
class AuditSummary:
    """All that is derived from a table."""

    cells: tuple[Cell, ...]
    worst: str
    gap: Interval
    places: tuple[Place, ...]
    hits: tuple[Pointing, ...]
    effects: tuple[Effect, ...]
    verdict: Verdict


def clusters_of(table: AuditTable) -> list[np.ndarray]:
    """Return the factors that the bootstrap redraws: sources and backgrounds."""
    return crossed(table.sources, table.backgrounds)


def bootstrap_of(
    table: AuditTable, columns: Mapping[str, np.ndarray], limits: Thresholds
) -> ClusterBootstrap:
    """Return the clustered bootstrap of columns; transplants are clustered by donor instead."""
    lent = [*crossed(table.sources, table.donor.tolist())]
    other = {name: lent for name in columns if "paste:" in name}
    return ClusterBootstrap(
        columns, clusters_of(table), other=other, resamples=limits.resamples, level=limits.level,
        seed=limits.seed,
    )  # fmt: skip


def summarise(
    table: AuditTable,
    names: Names,
    limits: Thresholds,
    donor_scores: Sequence[Sequence[float]] | None = None,
    *,
    note: str = "",
) -> AuditSummary:
    """Return everything that is derived from a table; `note` is what limits its evidence."""
    columns = _columns(table)
    boot = bootstrap_of(table, columns, limits)
    cells = tuple(_cell(table, boot, names, limits, g) for g in names.groups)
    known = [c for c in cells if c.enough]
    worst, gap = _gap(boot, known, limits)
    places = tuple(_places(table, boot, names))
    hits = tuple(_hits(table, boot, names))
    effects = tuple(_effects(table, boot, names))
    evidence = evidence_columns(table, donor_scores)
    joint = bootstrap_of(table, evidence, limits)
    enough = {
        n: joint.images[n] >= limits.images and joint.clusters[n] >= limits.clusters
        for n in evidence
    }
    few = [f"{c.name!r} has {c.images} images from {c.clusters} sources"
           for c in cells if not c.enough]  # fmt: skip
    missing = (
        f"{'; '.join(few)} (at least {limits.images} from {limits.clusters} are needed)"
        if few else ""
    )  # fmt: skip
    if not missing and not lines_of(joint, enough):
        missing = _unlocated(table, names, limits)
    verdict = judge(
        joint, enough, object=names.object, context=names.context,
        facts=_facts(names, places, joint, enough, known),
        missing=missing,
        note="; ".join(
            filter(None, (note, _room(table, names), _cropped(table, names)))
        ),
    )  # fmt: skip
    return AuditSummary(cells, worst, gap, places, hits, effects, verdict)


def _columns(table: AuditTable) -> dict[str, np.ndarray]:
    columns: dict[str, np.ndarray] = {}
    for g in ORDER:
        for name in ("right", "score"):
            columns[f"{name}:{g}"] = table.only(name, g)
        for name in table.columns:
            if name.startswith(("map:", "area:", "room:")):
                columns[f"{name}:{g}"] = table.only(name, g)
        for operation in table.operations():
            drop = table.drop(operation)
            columns[f"drop:{operation}:{g}"] = np.where(table.group == g, drop, np.nan)
            control = _control(operation)
            if control and f"after:{control}" in table.columns:
                cost = table.drop(control)
                columns[f"control:{operation}:{g}"] = np.where(table.group == g, cost, np.nan)
                columns[f"net:{operation}:{g}"] = np.where(table.group == g, drop - cost, np.nan)
    return {n: v for n, v in columns.items() if not np.isnan(v).all()}


def _control(operation: str) -> str | None:
    kind, _, way = operation.partition(":")
    return f"{kind}-control:{way}" if kind in ("object", "context") else None


def _cell(
    table: AuditTable, boot: ClusterBootstrap, names: Names, limits: Thresholds, group: int
) -> Cell:
    inside = table.group == group
    images = int(inside.sum())
    share = wilson(int(table.right[inside].sum()), images, level=limits.level)
    nothing = Interval(np.nan, np.nan, np.nan, limits.level, 0)
    there = f"right:{group}" in boot.point
    clusters = boot.clusters[f"right:{group}"] if there else 0
    clustered = within(boot.estimate(f"right:{group}").interval) if there else nothing
    if clusters and clustered.low == clustered.high:
        # all right or all wrong: redrawing shows no spread, so each cluster counts as one image
        hits = round(share.value * clusters)
        by_cluster = wilson(hits, clusters, level=limits.level)
        clustered = Interval(share.value, by_cluster.low, by_cluster.high, limits.level, images)
    return Cell(
        names.group(group), group >= 2, bool(group % 2), images, clusters, share,
        clustered, boot.estimate(f"score:{group}").interval if there else nothing,
        images >= limits.images and clusters >= limits.clusters,
    )  # fmt: skip


def _room(table: AuditTable, names: Names) -> str:
    """Return where controls had to be clearly smaller than what they stand for, or nothing."""
    found = []
    for kind in ("object", "context"):
        values = table.columns.get(f"room:{kind}")
        if values is not None:
            own = values[(table.group == BOTH) & ~np.isnan(values)]
            if len(own) and own.mean() < _ROOM:
                found.append(f"of the {getattr(names, kind)} {100 * own.mean():.0f} %")
    if not found:
        return ""
    return f"controls are smaller than their regions, for want of room: {', '.join(found)}"


def _unlocated(table: AuditTable, names: Names, limits: Thresholds) -> str:
    """Return why no line of evidence can be drawn, although the groups are large enough."""
    area = table.columns.get("area:object")
    there = np.zeros(len(table), bool) if area is None else area > 0
    count = int(there.sum())
    sources = len({table.sources[i] for i in np.flatnonzero(there)})
    if count >= limits.images and sources >= limits.clusters:
        return (
            f"too few images could lend their background to the {names.object}, or their inputs "
            "differ in size"
        )
    return (
        f"{count} images from {sources} sources say where the {names.object} is (at least "
        f"{limits.images} from {limits.clusters} are needed)"
    )


def _cropped(table: AuditTable, names: Names) -> str:
    """Return in how many images the preprocessing crops the whole object away, or nothing."""
    area = table.columns.get("area:object")
    gone = 0 if area is None else int(((table.group >= 2) & (area == 0)).sum())
    if not gone:
        return ""
    return f"in {gone} images the {names.object} lies outside of the model's input (cropped away)"


def _gap(boot: ClusterBootstrap, known: Sequence[Cell], limits: Thresholds) -> tuple[str, Interval]:
    """Return the worst group, and the best group's share right less its own."""
    if len(known) < 2:
        return "", Interval(np.nan, np.nan, np.nan, limits.level, 0)
    worst = min(known, key=lambda c: c.right.value)
    best = max(known, key=lambda c: c.right.value)
    a, b = (f"right:{2 * c.object + c.context}" for c in (best, worst))
    return worst.name, boot.estimate(lambda m: m[a] - m[b], (a, b)).interval


def _places(table: AuditTable, boot: ClusterBootstrap, names: Names) -> list[Place]:
    found = []
    for method in table.methods():
        for g in ORDER:
            text = f"map:{method}:text:{g}"
            if text in boot.point:
                share = within(boot.estimate(text).interval)
                found.append(Place(method, names.group(g), "text", share, np.nan))
            for region in ("object", "context", "elsewhere"):
                energy, area = f"map:{method}:{region}:{g}", f"area:{region}:{g}"
                if energy in boot.point and area in boot.point:
                    # chance on the very images that count: those with a map
                    on = ~np.isnan(table.columns[f"map:{method}:{region}"]) & (table.group == g)
                    chance = float(np.nanmean(table.columns[f"area:{region}"][on]))
                    if region == "elsewhere" and not chance:
                        continue  # object and context are all there is
                    interval = within(boot.estimate(energy).interval)
                    found.append(Place(method, names.group(g), region, interval, chance))
    return found


def _hits(table: AuditTable, boot: ClusterBootstrap, names: Names) -> list[Pointing]:
    found = []
    for method in table.methods():
        for g in (BOTH, OBJECT_ALONE):
            key = f"map:{method}:%s:{g}"
            if key % "pointing" in boot.point and key % "iou" in boot.point:
                found.append(
                    Pointing(
                        method, names.group(g), within(boot.estimate(key % "pointing").interval),
                        within(boot.estimate(key % "iou").interval),
                        float(boot.point[f"area:object:{g}"]),
                    )
                )  # fmt: skip
    return found


def _effects(table: AuditTable, boot: ClusterBootstrap, names: Names) -> list[Effect]:
    drawn: list[dict[str, Any]] = []
    for operation in table.operations():
        if "-control" in operation:
            continue
        for g in ORDER:
            name = f"drop:{operation}:{g}"
            if name not in boot.point:
                continue
            net = f"net:{operation}:{g}"
            controlled = net in boot.point
            estimate = boot.estimate(net if controlled else name)
            rows = (table.group == g) & ~np.isnan(table.columns[f"called:{operation}"])
            before = table.columns["called"][rows] > 0.5
            after = table.columns[f"called:{operation}"][rows] > 0.5
            lost, gained = int((before & ~after).sum()), int((~before & after).sum())
            drawn.append(
                {
                    "operation": operation, "group": names.group(g),
                    "drop": boot.estimate(name).interval,
                    "control": boot.estimate(f"control:{operation}:{g}").interval
                    if controlled else None,
                    "control_area": float(boot.point[f"room:{operation.partition(':')[0]}:{g}"])
                    if controlled else np.nan,
                    "net": estimate.interval, "p": estimate.p, "lost": lost, "gained": gained,
                    "mcnemar": mcnemar(lost, gained),
                }
            )  # fmt: skip
    adjusted = holm([d["p"] for d in drawn])
    exact = holm([d["mcnemar"] for d in drawn])
    return [
        Effect(**d, adjusted=a, mcnemar_adjusted=e)
        for d, a, e in zip(drawn, adjusted, exact, strict=True)
    ]


def _facts(
    names: Names,
    places: Sequence[Place],
    joint: ClusterBootstrap,
    enough: Mapping[str, bool],
    cells: Sequence[Cell],
) -> str:
    """Return what a reader should know: where evidence lies, what removal costs, worst group."""
    parts = []
    for region in ("context", "object"):
        found = [p for p in places if p.group == names.group(BOTH) and p.region == region]
        place = next((p for p in found if p.method != "attention"), next(iter(found), None))
        if place is not None and place.energy.low == place.energy.low:
            name = getattr(names, region)
            of = (
                f"the evidence for {names.object}" if place.method != "attention"
                else "the attention to the photo"
            )  # fmt: skip
            start = (
                f"{percent(place.energy)} of {of} lies on the {name}"
                if not parts else f"{percent(place.energy)} on the {name}"
            )  # fmt: skip
            parts.append(f"{start} ({100 * place.area:.0f} % of the area)")
    for kind in ("net", "raw"):
        if all(enough.get(f"{kind}:{r}", False) for r in ("context", "object")):
            cost = [
                f"removing the {getattr(names, region)} costs "
                f"{number(joint.estimate(f'{kind}:{region}').interval)}"
                for region in ("context", "object")
            ]
            cost[1] = cost[1].replace(" costs", "")
            parts.append(f"{cost[0]} logits, {cost[1]}")
            break
    if len(cells) > 1:
        worst = min(cells, key=lambda c: c.right.value)
        parts.append(f"worst group '{worst.name}' {percent(worst.right)} right")
    return "; ".join(parts)


def percent(interval: Interval) -> str:
    """Return a share as '71 % [66, 75]'."""
    return f"{100 * interval.value:.0f} % [{100 * interval.low:.0f}, {100 * interval.high:.0f}]"


def number(interval: Interval) -> str:
    """Return a number as '3.1 [2.8, 3.3]'."""
    return f"{interval.value:.1f} [{interval.low:.1f}, {interval.high:.1f}]".replace("-0.0", "0.0")
