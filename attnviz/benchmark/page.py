"""One HTML page: the tables, then each image with its maps and curves, worst first."""

from __future__ import annotations

import base64
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..templates import template
from .pictures import picture_name
from .summary import MetricTable, Row, Summary
from .wording import headline, notes

if TYPE_CHECKING:
    from .store import Store

#: images shown with pictures; the tables hold all of them
SHOWN = 60
#: distinct for colour-blind readers, on white (Okabe & Ito)
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8a8a00")
_WIDTH, _HEIGHT = 220, 120


def page(summary: Summary, store: Store, pictures: Path) -> str:
    """Return the page, with its pictures inside and nothing to fetch.

    Args:
        summary: the tables.
        store: the images' values.
        pictures: the folder that the run drew into.
    """
    methods = (
        [row.name for row in summary.tables[0].rows if not row.control] if summary.tables else []
    )
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(methods)}
    order = worst_first(summary, store)
    return template(__package__, "templates/benchmark.html").render(
        plan=summary.plan,
        images=len(summary.images),
        failed=summary.failed,
        refused=summary.refused,
        tables=[_table(table) for table in summary.tables],
        colours=colours,
        cards=[_card(image, methods, colours, store, pictures) for image in order[:SHOWN]],
        hidden=max(0, len(order) - SHOWN),
        judge=_judge(summary),
    )


def _judge(summary: Summary) -> MetricTable | None:
    """The metric that images are sorted by: the first with a better end."""
    return next((t for t in summary.tables if t.higher_is_better is not None), None)


def worst_first(summary: Summary, store: Store) -> list[str]:
    """Return the images, worst first: by the mean over the methods of the first metric.

    Images without a value come last, in their own order.
    """
    table = _judge(summary)

    def badness(image: str) -> tuple[bool, float]:
        if table is None:
            return (True, 0.0)
        found = store.results(image).get(table.key, {})
        names = [row.name for row in table.rows if not row.control]
        values = [found[n]["value"] for n in names if n in found]
        values = [v for v in values if v is not None]
        if not values:
            return (True, 0.0)
        mean = sum(values) / len(values)
        return (False, mean if table.higher_is_better else -mean)

    return sorted(summary.images, key=badness)


def _table(table: MetricTable) -> dict[str, Any]:
    return {
        "title": headline(table),
        "rows": [_line(row) for row in table.rows],
        "notes": notes(table),
        "relative": any(row.relative is not None for row in table.rows),
    }


def _line(row: Row) -> dict[str, Any]:
    interval = row.interval
    known = not math.isnan(interval.value)
    return {
        "name": row.name,
        "control": row.control,
        "value": f"{interval.value:.4f}" if known else "–",
        "interval": ""
        if math.isnan(interval.low)
        else f"{interval.low:.4f} to {interval.high:.4f}",
        "images": interval.images,
        "skipped": ", ".join(f"{n} {why}" for why, n in row.skipped.items()),
        "relative": "" if row.relative is None else f"{row.relative:.0%}",
        "beats": "" if row.beats is None else ", ".join(row.beats) or "none",
        "loses": ", ".join(row.loses or ()),
    }


def _card(
    image: str,
    methods: list[str],
    colours: dict[str, str],
    store: Store,
    pictures: Path,
) -> dict[str, Any]:
    row = store.rows[image]
    shown = []
    for name in ("photo", *methods):
        path = pictures / picture_name(image, name)
        if path.is_file():
            data = base64.b64encode(path.read_bytes()).decode()
            shown.append({"name": name, "data": f"data:image/jpeg;base64,{data}"})
    curves, values = [], []
    for key, by_map in store.results(image).items():
        if "@" in key:
            continue
        shared = store.protocols[key]
        numbers = [(n, by_map[n]["value"]) for n in methods if n in by_map]
        values.append(
            {
                "metric": key,
                "by_method": [
                    {"name": n, "value": "skipped" if v is None else f"{v:.3f}"} for n, v in numbers
                ],
            }
        )
        if "fraction" in shared and len(shared["fraction"]) > 1:
            curves.append(_curve(key, shared["fraction"], by_map, methods, colours))
    return {
        "image": image,
        "label": row["label"],
        "probability": f"{row['probability']:.1%}",
        "annotated": row["annotated"],
        "pictures": shown,
        "curves": curves,
        "numbers": values,
    }


def _curve(
    key: str,
    fraction: list[float],
    by_map: dict[str, Any],
    methods: list[str],
    colours: dict[str, str],
) -> dict[str, Any]:
    """Return the lines of one chart, in its own pixels, and the range of its scores."""
    rows = {n: by_map[n]["scores"] for n in methods if n in by_map}
    rows = {n: r for n, r in rows.items() if all(v is not None for v in r)}
    every = [v for r in rows.values() for v in r] or [0.0]
    low, high = min(0.0, *every), max(every)
    span = high - low or 1.0
    lines = []
    for name, scores in rows.items():
        points = " ".join(
            f"{x * _WIDTH:.1f},{_HEIGHT - (y - low) / span * _HEIGHT:.1f}"
            for x, y in zip(fraction, scores, strict=True)
        )
        lines.append({"name": name, "points": points, "colour": colours[name]})
    return {
        "metric": key,
        "lines": lines,
        "low": f"{low:.2g}",
        "high": f"{high:.2g}",
        "width": _WIDTH,
        "height": _HEIGHT,
    }
