"""A folder a class: `boat/1.jpg`, `other/2.jpg`, or below `train/`, `validation/`, `test/`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from ...errors import DataError
from ..dataset import READERS, SPLIT_NAMES, Dataset, build, split_name
from ..mask_folders import add_masks
from ..sample import Sample
from ._common import IMAGE_SUFFIXES

_SPLITS = {"train", "validation", "test", *SPLIT_NAMES}


def detect(root: Path) -> bool:
    """Return whether a folder of folders holds images."""
    if not root.is_dir():
        return False
    return next(images_below(root, depth=3), None) is not None


def images_below(
    folder: Path, depth: int = 32, above: frozenset[str] = frozenset()
) -> Iterator[Path]:
    """Yield the image files in a folder and below it, in order; hidden ones are left out.

    A link that leads back into a folder around it is not followed: its images would come twice.
    """
    above |= {os.path.realpath(folder)}
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            if depth > 0 and not leads_back(entry, above):
                yield from images_below(entry, depth - 1, above)
        elif entry.suffix.lower() in IMAGE_SUFFIXES:
            yield entry


def leads_back(folder: Path, above: frozenset[str]) -> bool:
    """Return whether a folder is a link to one of those `above`, or to one around them."""
    if not folder.is_symlink():
        return False
    real = os.path.join(os.path.realpath(folder), "")
    return any(os.path.join(around, "").startswith(real) for around in above)


@READERS.register("imagefolder", aliases=("folder",), detect=detect)
def read_imagefolder(root: Path, *, images: Path | None = None, faults: str = "raise") -> Dataset:
    """A folder a class, optionally below train, validation and test; subfolders allowed.

    Masks may lie beside: `masks/boat/1.png` is the mask of `boat/1.jpg` or `images/boat/1.jpg`,
    not 0 on the boat; images may lack one. A subfolder called `cat(sofa)` in `cat` (MetaShift)
    adds the label `sofa` to what is in it.

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
    base, masks = _with_masks(root)
    top = [p for p in subfolders(base) if p != masks]
    split_level = bool(top) and all(p.name.lower() in _SPLITS for p in top)
    loose = [p.name for p in base.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES]
    if loose:
        raise DataError(
            f"{base}: {len(loose)} images lie beside the class folders, the first {loose[0]!r}; "
            f"put every image into a class folder, or describe them in a CSV (path,label)"
        )
    if not top:
        raise DataError(f"{base} has no subfolders; an image folder has one a class")
    entries, classes = [], set()
    for part in top:
        for folder in subfolders(part) if split_level else [part]:
            files = list(images_below(folder))
            if files:
                classes.add(folder.name)
            split = split_name(part.name) if split_level else None
            entries += [partial(_sample, base, p, folder, split) for p in files]
    dataset = build(
        entries, classes=sorted(classes), root=base, format="imagefolder", faults=faults
    )
    extra = {name for sample in dataset for name in sample.labels} - classes
    dataset = replace(dataset, classes=(*dataset.classes, *sorted(extra)))
    return dataset if masks is None else add_masks(dataset, masks, base)


def subfolders(folder: Path) -> list[Path]:
    """Return the folders in a folder, in order, without hidden ones and links that lead back."""
    real = frozenset({os.path.realpath(folder)})
    return [
        p for p in sorted(folder.iterdir())
        if p.is_dir() and not p.name.startswith(".") and not leads_back(p, real)
    ]  # fmt: skip


def _with_masks(root: Path) -> tuple[Path, Path | None]:
    """Return the folder of the class folders, and that of masks which mirror it, or None."""
    masks, images = root / "masks", root / "images"
    if not masks.is_dir():
        return root, None
    base = images if images.is_dir() else root
    mirrored = {p.name for p in subfolders(masks)}
    # a class may be called masks: then its folder does not repeat the names beside it
    found = bool(mirrored) and mirrored <= {p.name for p in subfolders(base) if p != masks}
    return (base, masks) if found else (root, None)


def _sample(root: Path, path: Path, folder: Path, split: str | None) -> Sample:
    label = folder.name
    within = [
        part[len(label) + 1 : -1] for part in path.relative_to(folder).parts[:-1]
        if part.startswith(f"{label}(") and part.endswith(")") and len(part) > len(label) + 2
    ]  # fmt: skip
    return Sample(
        path.relative_to(root).as_posix(), path, label=label, labels=(label, *within), split=split,
        group="/".join((label, *within)) if within else "",
    )  # fmt: skip
