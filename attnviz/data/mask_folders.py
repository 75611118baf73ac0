"""Masks from folders that mirror the images' names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ..errors import DataError
from .dataset import Dataset
from .masks import MaskFile
from .sample import Sample

_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".gif")


def add_masks(
    dataset: Dataset, masks: str | Path | Mapping[str, str | Path], images: Path | None
) -> Dataset:
    """Return the dataset with the mask files found; an image may lack one, all may not.

    Args:
        masks: a folder (its masks are of each image's own label), or class name -> folder.
        images: the folder that the mirrored names are relative to; None takes the dataset's root.
    """
    named = masks if isinstance(masks, Mapping) else {None: masks}
    base = images or dataset.root or Path()
    base = base if base.is_dir() else base.parent
    samples, found = [], dict.fromkeys(named, 0)
    names = Counter(_relative(s, base).name for s in dataset)
    folders = {name: Path(folder).expanduser() for name, folder in named.items()}
    for folder in folders.values():
        if not folder.is_dir():
            raise DataError(f"mask folder {folder} does not exist or is no folder")
    for sample in dataset:
        extra = {}
        for name, folder in folders.items():
            relative = _relative(sample, base)
            # A flat folder of masks will do where the names alone are unique.
            alone = names[relative.name] == 1
            file = _mirror(relative, folder, alone)
            label = name or sample.label
            if file is None:
                continue
            if label is None:
                raise DataError(
                    f"mask {file}: sample {sample.id!r} has no label of its own, so it is not "
                    f"known of what the mask is; give masks={{'class name': folder}}"
                )
            extra[label] = MaskFile(file)
            found[name] += 1
        samples.append(replace(sample, masks={**sample.masks, **extra}))
    for name, folder in folders.items():
        if not found[name]:
            raise DataError(
                f"mask folder {folder}: no mask matches an image; expected the image's relative "
                f"name with {', '.join(_SUFFIXES)}, e.g. {folder / _relative(dataset[0], base)}"
            )
    classes = (*dataset.classes, *(n for n in named if n and n not in dataset.classes))
    return replace(dataset, samples=tuple(samples), classes=classes)


def _relative(sample: Sample, base: Path) -> Path:
    name = Path(sample.id)
    if isinstance(sample.image, Path):
        try:
            name = sample.image.relative_to(base)
        except ValueError:
            name = Path(sample.image.name)
    return name.with_suffix(".png")


def _mirror(relative: Path, folder: Path, alone: bool) -> Path | None:
    for name in (relative, Path(relative.name)) if alone else (relative,):
        for suffix in _SUFFIXES:
            file = folder / name.with_suffix(suffix)
            if file.is_file():
                return file
    return None
