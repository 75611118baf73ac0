"""A comparison as JSON, CSV, lines for a terminal, and an HTML page."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..writing import cell, write_files
from .page import page
from .summary import MetricTable, Row, Summary
from .wording import headline, notes

if TYPE_CHECKING:
    from .store import Store

SCHEMA_VERSION = 1


def write_all(summary: Summary, store: Store, out: Path) -> list[Path]:
    """Write `summary.json`, `values.csv` and `index.html`; those of an earlier run are replaced."""

    files = {
        out / "summary.json": json.dumps(as_dict(summary), indent=2, ensure_ascii=False),
        out / "values.csv": values_csv(summary, store),
        out / "index.html": page(summary, store, out / "pictures"),
    }
    write_files(files, force=True)
    return list(files)


def as_dict(summary: Summary) -> dict[str, Any]:
    """Return a summary as JSON values."""
    return {
        "schema": "attnviz.benchmark",
        "schema_version": SCHEMA_VERSION,
        "attnviz": __version__,
        "plan": dict(summary.plan),
        "images": len(summary.images),
        "failed": [{"image": k, "error": v} for k, v in summary.failed.items()],
        "refused": [{"method": k, "error": v} for k, v in summary.refused.items()],
        "metrics": [_table(table) for table in summary.tables],
    }


def _table(table: MetricTable) -> dict[str, Any]:
    ranking = table.ranking
    return {
        "metric": table.key,
        "protocol": table.protocol,
        "higher_is_better": table.higher_is_better,
        "rows": [_row(row) for row in table.rows],
        "tests": [test.as_dict() for test in table.tests],
        "ranking": None
        if ranking is None
        else {
            "text": str(ranking),
            "orders": {k: list(v) for k, v in ranking.orders.items()},
            "tau": None if math.isnan(ranking.tau) else ranking.tau,
            "best": ranking.best,
        },
    }


def _row(row: Row) -> dict[str, Any]:
    return {
        "name": row.name,
        "control": row.control,
        **row.interval.as_dict(),
        "skipped": dict(row.skipped),
        "relative": row.relative,
        "beats": None if row.beats is None else list(row.beats),
        "loses": None if row.loses is None else list(row.loses),
    }


def values_csv(summary: Summary, store: Store) -> str:
    """Return every value, one line each: image, target, label, metric, protocol, map, value."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "target", "label", "metric", "protocol", "map", "value", "skipped"])
    for image in summary.images:
        row = store.rows[image]
        for key, by_map in store.results(image).items():
            protocol = store.protocols[key]["protocol"]["text"] if key in store.protocols else ""
            for name, found in by_map.items():
                value = "" if found["value"] is None else repr(found["value"])
                texts = map(cell, [image, row["target"], row["label"], key, protocol, name])
                writer.writerow([*texts, value, cell(found.get("skipped", ""))])
    return text.getvalue()


def lines(summary: Summary) -> list[str]:
    """Return the tables as lines of text."""
    found = []
    for table in summary.tables:
        found += ["", headline(table)]
        width = max(len(row.name) for row in table.rows)
        for row in table.rows:
            found.append(f"  {row.name:<{width}}  {_numbers(row):<28}{_verdict(row)}".rstrip())
        found += [f"  {note}" for note in notes(table)]
    for name, why in summary.refused.items():
        found += ["", f"{name} was left out: {why}"]
    return found[1:]


def _numbers(row: Row) -> str:
    interval = row.interval
    if math.isnan(interval.value):
        return "-"
    if math.isnan(interval.low):
        return f"{interval.value:.4f}"
    return f"{interval.value:.4f} [{interval.low:.4f}, {interval.high:.4f}]"


def _verdict(row: Row) -> str:
    parts = []
    if row.control:
        parts.append("control")
    elif row.beats is not None:
        parts.append(f"beats {', '.join(row.beats) or 'no control'}")
        if row.loses:
            parts.append(f"loses to {', '.join(row.loses)}")
    if row.relative is not None:
        parts.append(f"{round(row.relative, 2) + 0.0:.0%} of the way from random to mask")
    if row.skipped:
        parts.append("skipped " + ", ".join(f"{n} ({why})" for why, n in row.skipped.items()))
    return "; ".join(parts)
