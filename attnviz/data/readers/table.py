"""A CSV: one row an image, or one row a box."""

from __future__ import annotations

import csv
from functools import partial
from pathlib import Path

from ... import limits
from ...errors import DataError, did_you_mean
from ..dataset import READERS, Dataset, build, split_name
from ..masks import MaskFile, MaskSource
from ..sample import Box, Sample
from ._common import image_root, inside, number

_PATH = ("path", "image", "file", "filename", "file_name")
_BOX = (("x0", "y0", "x1", "y1"), ("xmin", "ymin", "xmax", "ymax"))
_PLAIN = ("label", "box_label", "mask", "source", "split", "group")


def _file(root: Path) -> Path | None:
    if root.is_file():
        return root if root.suffix.lower() in (".csv", ".tsv") else None
    return next((root / n for n in ("index.csv", "labels.csv") if (root / n).is_file()), None)


def detect(root: Path) -> bool:
    """Return whether a path is a CSV, or a folder with index.csv or labels.csv."""
    return _file(root) is not None


@READERS.register("csv", aliases=("tsv", "table"), detect=detect)
def read_table(root: Path, *, images: Path | None = None, faults: str = "raise") -> Dataset:
    """CSV with a column `path` and any of: label, x0, y0, x1, y1, box_label, mask, mask:NAME, ...

    Columns: `path` (or image, file, filename); `label`; `x0,y0,x1,y1` (or xmin,ymin,xmax,ymax)
    half-open pixels; `box_label` (else the label); `mask` (file, not 0 = the label); `mask:NAME`
    (file, not 0 = class NAME); `source`; `split`; `group`. Others are kept in `meta`. Rows with
    the same path are one image with several boxes. Paths are relative to the CSV, or absolute.
    """
    file = _file(root)
    if file is None:
        raise DataError(f"{root}: expected a .csv or .tsv file, or a folder with index.csv")
    rows = _rows(file)
    header = list(next(iter(rows.values()))[0][1]) if rows else []
    base = image_root(file, images)
    entries = [partial(_sample, base, file, path, group, header) for path, group in rows.items()]
    return build(entries, classes=None, root=root, format="csv", faults=faults)


def _rows(file: Path) -> dict[str, list[tuple[int, dict[str, str]]]]:
    delimiter = "\t" if file.suffix.lower() == ".tsv" else ","
    rows: dict[str, list[tuple[int, dict[str, str]]]] = {}
    limits.check("annotation_bytes", file.stat().st_size, str(file))
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(limits.lines(stream, str(file)), delimiter=delimiter)
            header = [h or "" for h in reader.fieldnames or ()]
            key = next((h for h in header if h.strip().lower() in _PATH), None)
            if key is None:
                raise DataError(
                    f"{file}: no column 'path' in {header}{did_you_mean('path', header) or '.'} "
                    f"The first line names the columns: path,label,x0,y0,x1,y1,mask"
                )
            if len(set(header)) != len(header):
                raise DataError(f"{file}: column names occur twice in {header}")
            for row in reader:
                if None in row or None in row.values():
                    raise DataError(
                        f"{file}, line {reader.line_num}: expected {len(header)} columns as in the "
                        f"first line; quote values that hold a {delimiter!r}"
                    )
                path = row.pop(key).strip()
                rows.setdefault(path, []).append((reader.line_num, row))
    except (csv.Error, UnicodeDecodeError) as fault:
        raise DataError(f"{file} is not readable as CSV in UTF-8: {fault}") from fault
    return rows


def _agreed(rows: list[tuple[int, dict[str, str]]], column: str, where: str) -> str:
    """Return the one value that all rows of an image give for a column."""
    values = {row.get(column, "").strip() for _, row in rows} - {""}
    if len(values) > 1:
        raise DataError(
            f"{where}: rows give different values of {column!r}: {sorted(values)}; "
            f"one image has one (a box's own class goes into 'box_label')"
        )
    return values.pop() if values else ""


def _sample(
    base: Path,
    file: Path,
    name: str,
    rows: list[tuple[int, dict[str, str]]],
    header: list[str],
) -> Sample:
    where = f"{file.name}, line {rows[0][0]} ({name!r})"
    path = _path(base, name, where)
    corners = next((c for c in _BOX if set(c) <= set(header)), None)
    label = _agreed(rows, "label", where) or None
    boxes = []
    masks: dict[str, MaskSource] = {}
    for line, row in rows:
        at = f"{file.name}, line {line}"
        texts = [row[c].strip() for c in corners] if corners else []
        if any(texts):
            box_label = row.get("box_label", "").strip() or label or ""
            numbers = [number(t, f"{at}, {c}") for t, c in zip(texts, corners or (), strict=True)]
            boxes.append(Box(*numbers, label=box_label).checked(None, at))
    for column in header:
        if column == "mask" or column.startswith("mask:"):
            value = _agreed(rows, column, where)
            if not value:
                continue
            of = column.partition(":")[2] or label
            if not of:
                raise DataError(
                    f"{where}: a mask but no label, so it is not known of what; "
                    f"add the column 'label', or call the mask's column 'mask:NAME'"
                )
            mask_path = _path(base, value, where)
            if not mask_path.is_file():
                raise DataError(f"{where}: mask {mask_path} does not exist")
            masks[of] = MaskFile(mask_path)
    labels = dict.fromkeys(([label] if label else []) + [b.label for b in boxes if b.label])
    rest = [h for h in header if h not in (*_PLAIN, *(corners or ())) and h[:5] != "mask:"]
    split = _agreed(rows, "split", where)
    return Sample(
        id=name,
        image=path,
        label=label,
        labels=tuple(labels),
        boxes=tuple(boxes),
        masks=masks,
        source=_agreed(rows, "source", where),
        split=split_name(split) if split else None,
        group=_agreed(rows, "group", where),
        meta={h: rows[0][1][h] for h in rest},
    )


def _path(base: Path, name: str, where: str) -> Path:
    # The user wrote the table, or chose it: absolute paths are allowed here, unlike in JSON.
    return Path(name) if Path(name).is_absolute() else inside(base, name, where)
