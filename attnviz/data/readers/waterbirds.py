"""Waterbirds (Sagawa et al. 2020, arXiv:1911.08731): CUB's birds in front of land or water."""

from __future__ import annotations

import csv
from functools import partial
from pathlib import Path

from ... import limits
from ...errors import DataError
from ..dataset import READERS, Dataset, build
from ..masks import MaskFile
from ..sample import Sample
from ._common import inside

_FILE, _MASKS = "metadata.csv", "segmentations"
_COLUMNS = ("img_filename", "y", "split", "place")
CLASSES, PLACES = ("landbird", "waterbird"), ("land", "water")
_SPLITS = ("train", "validation", "test")


def detect(root: Path) -> bool:
    """Return whether a folder holds a metadata.csv with Waterbirds' columns."""
    file = root / _FILE
    if not file.is_file():
        return False
    with file.open(encoding="utf-8", errors="replace") as stream:
        return set(_COLUMNS) <= set(
            stream.readline(limits.current().line_characters).strip().split(",")
        )


@READERS.register("waterbirds", detect=detect)
def read_waterbirds(root: Path, *, images: Path | None = None, faults: str = "raise") -> Dataset:
    """Waterbirds: metadata.csv with img_filename, y, split, place, place_filename.

    Labels are the bird (landbird, waterbird) and the place (land, water); the photo of the place is
    the background that images are clustered by. Masks of the birds are CUB-200-2011's
    `segmentations/`, put beside metadata.csv, or given as `masks=`; an image may lack one.
    """
    file = root / _FILE
    if not file.is_file():
        raise DataError(f"{root}: expected a file {_FILE}, as Waterbirds has it")
    limits.check("annotation_bytes", file.stat().st_size, str(file))
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            rows = list(csv.DictReader(limits.lines(stream, str(file))))
    except (csv.Error, UnicodeDecodeError) as fault:
        raise DataError(f"{file} is not readable as CSV in UTF-8: {fault}") from fault
    entries = [partial(_sample, root, images or root, row) for row in rows]
    classes = [*CLASSES, *PLACES]
    return build(entries, classes=classes, root=root, format="waterbirds", faults=faults)


def _sample(root: Path, base: Path, row: dict[str, str]) -> Sample:
    name = row.get("img_filename") or ""
    where = f"{_FILE}, {name!r}"
    path = inside(base, name, where)
    numbers = []
    for column, names in (("y", CLASSES), ("place", PLACES), ("split", _SPLITS)):
        text = (row.get(column) or "").strip()
        if not text.isdecimal() or int(text) >= len(names):
            raise DataError(f"{where}: {column} {text!r}, expected 0 to {len(names) - 1}")
        numbers.append(names[int(text)])
    bird, place, split = numbers
    mask = (root / _MASKS / name).with_suffix(".png")
    photo = row.get("place_filename") or ""
    return Sample(
        name, path, label=bird, labels=(bird, place), split=split, group=f"{bird}/{place}",
        masks={bird: MaskFile(mask)} if mask.is_file() else {},
        meta={"background": photo} if photo else {},
    )  # fmt: skip
