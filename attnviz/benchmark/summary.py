"""From the images' values to statements: intervals, controls, tests, stability of the ranking."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..data.identity import sample_stamp
from ..errors import MetricError
from ..metrics import (
    CONTROLS,
    METRICS,
    Comparison,
    Interval,
    RankingStability,
    Scores,
    compare_methods,
    ranking_stability,
    relative,
)
from ..metrics.bootstrap import bootstrap
from .judging import Judged

if TYPE_CHECKING:
    from .running import Runner
    from .store import Store

#: a difference counts as shown below this corrected probability
ALPHA = 0.05


@dataclass(frozen=True)
class Row:
    """One map's line in a table.

    Attributes:
        name: the method or control.
        control: whether it is a control.
        interval: mean over images (or the metric's own summary) and its bootstrap interval.
        skipped: reason -> images.
        relative: 0 at the random control, 1 at the mask, for metrics of localisation; None where
            either control is missing.
        beats: controls that it is better than, and `loses` those that are better than it, with a
            corrected probability below .05; None for a control, without controls, or for a metric
            without a better end.
        loses: see `beats`.
    """

    name: str
    control: bool
    interval: Interval
    skipped: Mapping[str, int]
    relative: float | None = None
    beats: tuple[str, ...] | None = None
    loses: tuple[str, ...] | None = None


@dataclass(frozen=True)
class MetricTable:
    """One metric over all maps.

    Attributes:
        key: the metric's name.
        protocol: as it is printed.
        higher_is_better: True, False or None.
        rows: methods, best first where there is a better end, then controls.
        tests: pairs of methods, and of methods with controls, corrected together.
        ranking: over the baselines; None where only one was run or it means nothing.
    """

    key: str
    protocol: str
    higher_is_better: bool | None
    rows: tuple[Row, ...]
    tests: tuple[Comparison, ...]
    ranking: RankingStability | None


@dataclass(frozen=True)
class Summary:
    """A finished comparison.

    Attributes:
        plan: everything that the numbers depend on.
        tables: one a metric.
        images: images judged; `failed` those that could not be, with the reason.
        failed: see `images`.
        refused: methods that do not apply to the model, with the reason.
    """

    plan: Mapping[str, Any]
    tables: tuple[MetricTable, ...]
    images: tuple[str, ...]
    failed: Mapping[str, str]
    refused: Mapping[str, str]


def summarise(runner: Runner, store: Store, failed: Mapping[str, str]) -> Summary:
    """Return the tables of what a store holds."""
    images = [s.id for s in runner.subjects if store.has(s.id, sample_stamp(s))]
    judged = store.judged(images)
    tables = []
    for measure in runner.settings.measures():
        if not measure.checks and judged.get(measure.key):
            tables.append(_table(measure.key, judged, runner))
    return Summary(runner.plan(), tuple(tables), tuple(images), dict(failed), dict(runner.refused))


def _table(key: str, judged: Judged, runner: Runner) -> MetricTable:
    by_map = judged[key]
    protocol = next(iter(by_map.values())).protocol
    better = protocol.higher_is_better
    methods = [m for m in runner.methods if m in by_map]
    controls = [c for c in runner.controls if c in by_map]
    tests = _tests(by_map, methods, controls)
    numbers = {name: scores.summary() for name, scores in by_map.items()}
    if better is not None:
        # methods without a number come last
        methods.sort(key=lambda m: (numbers[m] != numbers[m], numbers[m] * (-1 if better else 1)))
    rows = [
        _row(n, by_map, numbers, tests, better, runner.settings.seed) for n in (*methods, *controls)
    ]
    return MetricTable(
        key, str(protocol), better, tuple(rows), tests, _ranking(key, judged, runner)
    )


def _tests(
    by_map: Mapping[str, Scores], methods: list[str], controls: list[str]
) -> tuple[Comparison, ...]:
    pairs = [*itertools.combinations(methods, 2), *itertools.product(methods, controls)]
    if not pairs:
        return ()
    return tuple(compare_methods(by_map, pairs=pairs))


def _row(
    name: str,
    by_map: Mapping[str, Scores],
    numbers: Mapping[str, float],
    tests: tuple[Comparison, ...],
    better: bool | None,
    seed: int,
) -> Row:
    control = name in CONTROLS
    # the mask is the best map there is for localisation; a model need not rest on the object alone
    family = METRICS.get(by_map[name].protocol.metric).family
    known = family == "localisation" and {"random", "mask"} <= by_map.keys()
    placed = None
    if known and name not in ("random", "mask"):
        placed = relative(numbers[name], chance=numbers["random"], best=numbers["mask"])
    beats, loses = [], []
    for test in tests:
        if test.first == name and test.second in CONTROLS and test.adjusted < ALPHA:
            (beats if (test.difference > 0) == better else loses).append(test.second)
    judgeable = not control and better is not None and numbers[name] == numbers[name]
    judgeable = judgeable and any(other in CONTROLS for other in by_map)
    return Row(
        name,
        control,
        bootstrap(by_map[name], seed=seed),
        by_map[name].skip_counts,
        placed if placed == placed else None,
        tuple(beats) if judgeable else None,
        tuple(loses) if judgeable else None,
    )


def _ranking(key: str, judged: Judged, runner: Runner) -> RankingStability | None:
    results = {}
    for number, baseline in enumerate(runner.settings.baselines):
        by_map = judged.get(key if number == 0 else f"{key}@{baseline}")
        if by_map:
            results[baseline] = {m: by_map[m] for m in runner.methods if m in by_map}
    try:
        return ranking_stability(results)
    except MetricError:
        return None  # one method, one baseline, or no better end: there is no ranking
