"""A Hugging Face dataset that `save_to_disk` wrote."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ... import limits
from ...errors import DataError, optional
from ..dataset import READERS, Dataset, build, split_name
from ..sample import Sample
from ._common import inside


@dataclass(frozen=True)
class _Row:
    """The image of one row; the table stays on disk."""

    folder: Path
    index: int
    column: str
    table: Any = field(repr=False, compare=False)

    def read_bytes(self) -> bytes:
        held = self.table[self.index][self.column]
        if held["bytes"] is not None:
            return held["bytes"]
        # a path that somebody else wrote into the table must not make attnviz read any other file
        return limits.read_bytes(inside(self.folder, held["path"], f"row {self.index}"), "bytes")

    def where(self) -> tuple[Path, str]:
        return next(self.folder.glob("*.arrow"), self.folder), f"row {self.index}"


def detect(root: Path) -> bool:
    """Return whether a folder holds a dataset, or several splits, saved by `datasets`."""
    return (root / "dataset_dict.json").is_file() or (root / "state.json").is_file()


@READERS.register("hf", aliases=("datasets",), detect=detect)
def read_hf(root: Path, *, images: Path | None = None, faults: str = "raise") -> Dataset:
    """What `datasets` saved by `save_to_disk`: a column of images, and one of classes if any.

    The image column is the first of the type `Image`, the class column the first `ClassLabel`,
    else a text called "label". Rows are read when they are asked for.

    Raises:
        EnvironmentFault: datasets is not installed (`pip install "attnviz[datasets]"`).
    """
    datasets = optional("datasets", "datasets")
    if images is not None:
        raise DataError("images=... is not used by a dataset of Hugging Face")
    held = datasets.load_from_disk(str(root))
    parts = dict(held) if isinstance(held, datasets.DatasetDict) else {"": held}
    entries, classes = [], {}
    for split, table in parts.items():
        features = table.features
        column = next((n for n, f in features.items() if isinstance(f, datasets.Image)), None)
        if column is None:
            raise DataError(f"{root}: no column of images among {', '.join(features)}")
        named = next((n for n, f in features.items() if isinstance(f, datasets.ClassLabel)), None)
        label = named or ("label" if "label" in features else None)
        names = features[named].names if named else ()
        classes |= dict.fromkeys(names)
        table = table.cast_column(column, datasets.Image(decode=False))
        told = table[label] if label else [None] * len(table)
        for index, value in enumerate(told):
            row = _Row(root / str(split), index, column, table)
            entries.append(partial(_sample, row, str(split), names, value))
    return build(entries, classes=list(classes) or None, root=root, format="hf", faults=faults)


def _sample(row: _Row, split: str, names: Any, value: Any) -> Sample:
    label = names[value] if names and value is not None and value >= 0 else None
    if not names and isinstance(value, str):
        label = value
    name = f"{split}/{row.index}" if split else str(row.index)
    return Sample(name, row, label=label, split=split_name(split) if split else None)
