"""Masks from folders that mirror the images' names, or from annotations of the same images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ..errors import DataError
from .dataset import Dataset
from .masks import MaskFile
from .readers import coco, label_studio
from .sample import Sample

_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".gif")


def add_masks(
    dataset: Dataset, masks: str | Path | Mapping[str, str | Path], images: Path | None
) -> Dataset:
    """Return the dataset with the masks found; an image may lack one, all may not.

    Args:
        masks: a folder (its masks are of each image's own label), or class name -> folder; or
            annotations: a file of COCO's or Label Studio's export, or a folder with one.
        images: the folder that the mirrored names are relative to; None takes the dataset's root.
    """
    named = masks if isinstance(masks, Mapping) else {None: masks}
    base = images or dataset.root or Path()
    base = base if base.is_dir() else base.parent
    if not isinstance(masks, Mapping):
        root = Path(masks).expanduser()
        for reader in (label_studio, coco):
            if root.exists() and reader.detect(root):
                return _add_annotations(dataset, reader.annotations_of(root), root, base)
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


def _add_annotations(
    dataset: Dataset, annotations: Sequence[Sample], root: Path, base: Path
) -> Dataset:
    """Return the dataset with the masks and boxes that annotations of its images give."""
    marked = [a for a in annotations if a.masks or a.boxes]
    by_path = {Path(a.id).with_suffix(""): a for a in marked}
    by_name = {Path(a.id).stem: a for a in marked}
    own = Counter(_relative(s, base).stem for s in dataset)
    theirs = Counter(Path(a.id).stem for a in marked)
    samples, matched = [], 0
    for sample in dataset:
        path = _relative(sample, base).with_suffix("")
        found = by_path.get(path)
        if found is None and own[path.name] == theirs[path.name] == 1:
            found = by_name[path.name]
        if found is None:
            samples.append(sample)
            continue
        matched += 1
        boxes = (*sample.boxes, *(b for b in found.boxes if b.label not in sample.masks))
        origin = {
            n: v for n, v in sample.meta.get("masks_from", {}).items() if n not in found.masks
        }
        origin |= found.meta.get("masks_from", {})
        meta = {**sample.meta, "masks_from": origin} if origin else sample.meta
        samples.append(
            replace(sample, masks={**sample.masks, **found.masks}, boxes=boxes, meta=meta)
        )
    names = dict.fromkeys(label for a in marked for label in a.labels)
    if not matched:
        raise DataError(
            f"{root}: none of its {len(marked)} annotated images is one of the data's; expected "
            f"names such as {_relative(dataset[0], base).with_suffix('')}"
        )
    if not set(names) & set(dataset.classes):
        raise DataError(
            f"{root} marks {', '.join(names)}, and the data has the classes "
            f"{', '.join(dataset.classes[:20])}: call what is marked by a class of the data"
        )
    extra = tuple(n for n in names if n not in dataset.classes)
    return replace(dataset, samples=tuple(samples), classes=(*dataset.classes, *extra))


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
