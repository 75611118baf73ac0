"""A folder a class: `boat/1.jpg`, `other/2.jpg`, or below `train/`, `validation/`, `test/`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from ...errors import DataError
from ..dataset import READERS, SPLIT_NAMES, Dataset, build, split_name
from ..sample import Sample
from ._common import IMAGE_SUFFIXES

_SPLITS = {"train", "validation", "test", *SPLIT_NAMES}


def detect(root: Path) -> bool:
    """Return whether a folder of folders holds images."""
    if not root.is_dir():
        return False
    return next(_images(root, depth=3), None) is not None


def _images(folder: Path, depth: int = 32) -> Iterator[Path]:
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            # A link may lead in a circle; the depth ends it.
            if depth > 0:
                yield from _images(entry, depth - 1)
        elif entry.suffix.lower() in IMAGE_SUFFIXES:
            yield entry


@READERS.register("imagefolder", aliases=("folder",), detect=detect)
def read_imagefolder(root: Path, *, images: Path | None = None, faults: str = "raise") -> Dataset:
    """A folder a class, optionally below train, validation and test; subfolders allowed.

    Args:
        root: the folder. Where all its subfolders are called train, validation (val, valid) or
            test, the classes are the folders below them and samples carry their split.
        images: not used by this layout.
        faults: see `open_dataset`.
    """
    if images is not None:
        raise DataError("images=... is not used by an image folder; give the folder itself as path")
    if not root.is_dir():
        raise DataError(f"{root} is no folder; an image folder has a subfolder a class")
    top = [p for p in sorted(root.iterdir()) if p.is_dir() and not p.name.startswith(".")]
    split_level = bool(top) and all(p.name.lower() in _SPLITS for p in top)
    loose = [p.name for p in root.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES]
    if loose:
        raise DataError(
            f"{root}: {len(loose)} images lie beside the class folders, the first {loose[0]!r}; "
            f"put every image into a class folder, or describe them in a CSV (path,label)"
        )
    if not top:
        raise DataError(f"{root} has no subfolders; an image folder has one a class")
    entries, classes = [], set()
    for part in top:
        folders = [part]
        if split_level:
            folders = [p for p in sorted(part.iterdir()) if p.is_dir() and p.name[0] != "."]
        for folder in folders:
            files = list(_images(folder))
            if files:
                classes.add(folder.name)
            split = split_name(part.name) if split_level else None
            entries += [partial(_sample, root, p, folder.name, split) for p in files]
    return build(entries, classes=sorted(classes), root=root, format="imagefolder", faults=faults)


def _sample(root: Path, path: Path, label: str, split: str | None) -> Sample:
    return Sample(path.relative_to(root).as_posix(), path, label=label, split=split)
