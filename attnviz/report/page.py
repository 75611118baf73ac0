"""The report of an audit: one HTML file that opens offline, JSON with a schema, CSV."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__, templates
from ..errors import DataError, OutputExists
from ..writing import write_files
from .charts import ChartRow, intervals
from .pictures import data_uri, enlarged, shown_map

FILES = ("report.html", "audit.json", "images.csv")
_MOST_MOVED = 40
_CAME, _WENT = "came right", "went wrong"


def write_audit(
    result: Any, folder: Any, *, comparison: Any = None, force: bool = False
) -> dict[str, Path]:
    """Write report.html, audit.json and images.csv into a folder, all of them or none.

    Args:
        result: an `AuditResult`.
        folder: made where it is missing.
        comparison: a `BeforeAfter` to show and to store instead of the single audit.
        force: overwrite.

    Returns:
        "report", "json", "csv" -> path.

    Raises:
        OutputExists: one of the files is there and `force` is off.
        DataError: the folder cannot be written.
    """
    document = (comparison or result).as_dict()
    texts = (audit_page(result, comparison=comparison), _json(document), result.csv())
    keys = ("report", "json", "csv")
    return _write(folder, dict(zip(keys, zip(FILES, texts, strict=True), strict=True)), force)


def audit_page(result: Any, *, comparison: Any = None) -> str:
    """Return the report as HTML: no address in it, nothing fetched, all text escaped.

    Args:
        result: an `AuditResult`.
        comparison: a `BeforeAfter` whose second audit `result` is.
    """
    return template("audit.html").render(
        r=result,
        c=comparison,
        version=__version__,
        audits=[comparison.before, comparison.after] if comparison else [result],
        charts=_charts(result) | {"change": _change(comparison)},
        examples=[_example(e) for e in result.examples],
        changes=comparison.changes if comparison else (),
        moved={_CAME: comparison.better, _WENT: comparison.worse} if comparison else {},
        shown=_pairs(comparison),
        most=_MOST_MOVED,
        settings=_settings(result),
        found=result.discovery,
        sheets=sheets_of(result.discovery),
    )


def template(name: str) -> Any:
    """Return a template of this folder, with intervals and p-values as words."""
    return templates.template(
        "attnviz.report", name, percent=lambda i: interval_text(i, share=True), span=interval_text,
        p=p_text,
    )  # fmt: skip


def sheets_of(discovery: Any) -> list[dict[str, Any]]:
    """Return the clusters of a discovery for a page, each with its contact sheet."""
    if discovery is None:
        return []
    found = []
    for number, entry in enumerate(discovery.as_dict()["clusters"]):
        sheet = np.asarray(discovery.sheet(number, columns=8, images=16, side=120, maps=True))
        found.append(entry | {"sheet": data_uri(sheet, longest=max(sheet.shape))})
    return found


def write_discovery(discovery: Any, folder: Any, *, force: bool = False) -> dict[str, Path]:
    """Write discovery.html and discovery.json into a folder, both or none.

    Args:
        discovery: what `attnviz.audit.discover` returns.
        folder: made where it is missing.
        force: overwrite.

    Returns:
        "report", "json" -> path.

    Raises:
        OutputExists: one of the files is there and `force` is off.
        DataError: the folder cannot be written.
    """
    page = template("discovery.html").render(
        found=discovery, sheets=sheets_of(discovery), version=__version__
    )
    document = {"schema": "attnviz.audit-discovery", "schema_version": 1, **discovery.as_dict()}
    return _write(
        folder, {"report": ("discovery.html", page), "json": ("discovery.json", _json(document))},
        force,
    )  # fmt: skip


def _json(document: Any) -> str:
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)


def _write(folder: Any, files: Mapping[str, tuple[str, str]], force: bool) -> dict[str, Path]:
    paths = {key: Path(folder) / name for key, (name, _) in files.items()}
    taken = [p for p in paths.values() if p.exists()]
    if taken and not force:
        raise OutputExists(
            f"{str(taken[0])!r} exists already; pass force=True (--force), or another folder"
        )
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        write_files({paths[key]: text for key, (_, text) in files.items()}, force=force)
    except OSError as error:
        raise DataError(
            f"cannot write into {str(folder)!r}: {error.strerror or error}; choose another folder"
        ) from error
    return paths


def interval_text(interval: Any, *, share: bool = False) -> str:
    """Return an interval for a table: '71 % [66, 75]' or '3.10 [2.81, 3.33]'."""
    if interval is None or interval.value != interval.value:
        return "–"
    scale, digits = (100, 0) if share else (1, 2)
    value = f"{scale * interval.value:.{digits}f}{' %' if share else ''}"
    if interval.low != interval.low:
        return f"{value} (no interval: too few)"
    return f"{value} [{scale * interval.low:.{digits}f}, {scale * interval.high:.{digits}f}]"


def p_text(p: float) -> str:
    """Return a p value: three digits, or below what."""
    return "–" if p != p else "< 0.001" if p < 0.001 else f"{p:.3f}"


def _charts(result: Any) -> dict[str, Any]:
    names = {
        "object": result.object,
        "context": result.context,
        "elsewhere": "elsewhere",
        "text": "text",
    }
    both = next((c.name for c in result.cells if c.object and c.context), "")
    verdict = result.verdict
    lines: list[ChartRow] = []
    for line in verdict.lines:
        lines += [
            ChartRow(f"{line.name}: {result.context}", line.context, kind="context"),
            ChartRow(f"{line.name}: {result.object}", line.object, kind="object"),
        ]
    severity = [ChartRow(line.name, line.share) for line in verdict.lines]
    if verdict.severity is not None:
        severity.append(ChartRow("severity (mean)", verdict.severity, kind="context"))
    operations: Sequence[Any] = [e for e in result.effects if e.group == both]
    return {
        "groups": intervals(
            [ChartRow(f"{c.name} (n = {c.images})", c.right) for c in result.cells if c.images],
            title="share answered rightly in each group", share=True,
            unit="answered rightly, with Wilson's interval",
        ),
        "where": intervals(
            [
                ChartRow(
                    f"{p.method}: {names[p.region]}", p.energy,
                    mark=None if p.region == "text" else p.area, kind=p.region,
                )
                for p in result.places
                if p.group == both
            ],
            title="where the evidence lies", share=True,
            unit="share of the map's positive mass, or of attention; diamond: the area's share",
        ),
        "lines": intervals(lines, title="effects on the score", unit="effect on the log-odds"),
        "severity": intervals(
            severity, title="share of the context", share=True,
            unit="share of the evidence that is the context's",
        ),
        "effects": intervals(
            [
                ChartRow(
                    result.caption(e.operation), e.drop, second=e.control,
                    kind=e.operation.split(":")[0] if ":" in e.operation else "",
                )
                for e in operations
            ],
            title="what each operation costs",
            unit=f"drop of the log-odds in '{both}'" + _room(operations),
        ),
    }  # fmt: skip


def _room(effects: Sequence[Any]) -> str:
    """Return how large controls are beside their regions."""
    shares = [e.control_area for e in effects if e.control is not None]
    if not shares:
        return ""
    low = min(shares)
    how = "equally large" if low > 0.995 else f"at least {100 * low:.0f} % as large"
    return f"; grey: the same operation on a region of neither, {how}"


def _change(comparison: Any) -> Any:
    """Return the chart of the groups before and after, or nothing."""
    if comparison is None:
        return ""
    cells = zip(comparison.before.cells, comparison.after.cells, strict=True)
    return intervals(
        [
            ChartRow(f"{b.name} (n = {b.images})", b.right, second=a.right, kind="object")
            for a, b in cells if b.images
        ],
        title="share answered rightly before and after", share=True,
        unit="answered rightly, with Wilson's interval; grey: before",
    )  # fmt: skip


def _example(example: Any) -> dict[str, Any]:
    return {
        "example": example,
        "photo": data_uri(enlarged(example.photo)),
        "map": data_uri(shown_map(example)),
        "top": f"{max(0.0, float(example.map.max())):.3g}",
        "size": " x ".join(map(str, example.map.shape)),
        "strip": [
            {"caption": f.caption, "score": f"{f.score:+.2f}", "image": data_uri(enlarged(f.image))}
            for f in example.strip
        ],
    }


def _pairs(comparison: Any) -> dict[str, list[dict[str, Any]]]:
    """Return the images that came right and went wrong, each with its map before and after."""
    found: dict[str, list[dict[str, Any]]] = {_CAME: [], _WENT: []}
    for moved in () if comparison is None else comparison.shown:
        maps = [
            {
                "when": when, "image": data_uri(shown_map(e)), "right": e.right,
                "score": f"{e.score:+.2f}", "top": f"{max(0.0, float(e.map.max())):.3g}",
            }
            for when, e in (("before", moved.before), ("after", moved.after))
        ]  # fmt: skip
        found[_CAME if moved.better else _WENT].append(
            {"id": moved.id, "group": moved.group, "maps": maps,
             "photo": data_uri(enlarged(moved.before.photo))}
        )  # fmt: skip
    return found


def _settings(result: Any) -> list[tuple[str, str]]:
    found = []
    for key, value in result.settings.items():
        if isinstance(value, Mapping):
            value = [f"{count} {name}" for name, count in value.items() if count] or ["none"]
        text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        found.append((key.replace("_", " "), text))
    return found
