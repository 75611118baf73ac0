"""A list of samples with its class names, and `open_dataset`, which reads any known layout."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

from ..errors import AttnvizWarning, DataError, did_you_mean
from ..registry import Registry
from .sample import Sample

#: name -> reader; one file in `attnviz/data/readers/` adds a layout. `meta["detect"]` says whether
#: a path looks like the reader's own.
READERS = Registry(
    "dataset format", "attnviz.data.readers", error=DataError, plugins="attnviz.readers"
)

#: detection asks in this order: the marked layouts before the plain folder of folders
_ORDER = ("coco", "masks", "voc", "csv", "imagefolder")


@dataclass(frozen=True, eq=False)
class Dataset(Sequence[Sample]):
    """Samples in a fixed order.

    Attributes:
        samples: the images; nothing is read until a sample is asked for its pixels.
        classes: every class name, in the dataset's own order.
        root: the folder or file it was read from, or None.
        format: the name of the layout.
    """

    samples: tuple[Sample, ...]
    classes: tuple[str, ...]
    root: Path | None = None
    format: str = "memory"

    def __post_init__(self) -> None:
        twice = [i for i, n in Counter(s.id for s in self.samples).items() if n > 1]
        if twice:
            raise DataError(
                f"{len(twice)} image ids occur more than once, the first {twice[0]!r}; every image "
                f"may be listed once (several boxes go into one sample)"
            )

    def __len__(self) -> int:
        return len(self.samples)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Dataset: ...
    def __getitem__(self, index: int | slice) -> Sample | Dataset:
        if isinstance(index, slice):
            return replace(self, samples=self.samples[index])
        return self.samples[index]

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)

    def __repr__(self) -> str:
        return f"Dataset({len(self)} samples, {len(self.classes)} classes, format={self.format!r})"

    def subset(self, indices: Iterable[int]) -> Dataset:
        """Return the samples at `indices`, in that order."""
        return replace(self, samples=tuple(self.samples[i] for i in indices))

    def filter(self, keep: Callable[[Sample], bool]) -> Dataset:
        """Return the samples for which `keep(sample)` is true."""
        return replace(self, samples=tuple(s for s in self.samples if keep(s)))

    def with_label(self, name: str) -> Dataset:
        """Return the samples in which class `name` occurs; an unknown class raises."""
        self.class_index(name)
        return self.filter(lambda s: name in s.labels)

    def parts(self) -> dict[str, Dataset]:
        """Return split name -> its samples, as the dataset itself says; `refuse_leaks` takes it.

        Raises:
            DataError: some samples have no split.
        """
        found: dict[str, list[int]] = {}
        for index, sample in enumerate(self.samples):
            if sample.split is None:
                raise DataError(
                    f"sample {sample.id!r} has no split; make splits with attnviz.data.splits"
                )
            found.setdefault(sample.split, []).append(index)
        return {name: self.subset(indices) for name, indices in found.items()}

    def class_index(self, name: str) -> int:
        """Return the index of a class name; an unknown one raises with the nearest names."""
        if name not in self.classes:
            raise DataError(
                f"class {name!r} is not in the dataset{did_you_mean(name, self.classes)} "
                f"It has: {', '.join(self.classes[:40])}{' ...' * (len(self.classes) > 40)}"
            )
        return self.classes.index(name)

    def counts(self) -> dict[str, int]:
        """Return class name -> number of images it occurs in, in the order of `classes`."""
        seen = Counter(label for s in self.samples for label in s.labels)
        return {name: seen[name] for name in self.classes}

    def check(self) -> None:
        """Read every image, box and mask; raise `DataError` with all faults (the first 10)."""
        faults = []
        for sample in self.samples:
            try:
                sample.check()
            except DataError as fault:
                faults.append(str(fault))
        if faults:
            raise DataError(_summary(faults, len(self.samples)))


def _summary(faults: Sequence[str], total: int) -> str:
    shown = "\n  ".join(faults[:10])
    more = f"\n  ... and {len(faults) - 10} more" if len(faults) > 10 else ""
    return f"{len(faults)} faults in {total} entries:\n  {shown}{more}"


def build(
    entries: Iterable[Callable[[], Sample]],
    *,
    classes: Sequence[str] | None,
    root: Path,
    format: str,
    faults: str = "raise",
) -> Dataset:
    """Make a dataset from thunks of samples, gathering the faults of all (for readers).

    Args:
        entries: one call a sample; a call that raises `DataError` is a fault.
        classes: the class names in order; None takes the labels met, sorted.
        faults: "raise" reports all faults in one `DataError`; "skip" leaves the faulty samples
            out and warns with the count.
    """
    if faults not in ("raise", "skip"):
        raise DataError(f"faults={faults!r}, expected 'raise' or 'skip'")
    samples, found, total = [], [], 0
    for make in entries:
        total += 1
        try:
            sample = make()
            if isinstance(sample.image, Path) and not sample.image.is_file():
                raise DataError(f"sample {sample.id!r}: image {sample.image} does not exist")
            samples.append(sample)
        except DataError as fault:
            found.append(str(fault))
    if found and (faults == "raise" or not samples):
        advice = "" if faults == "skip" else "\nRepair them, or leave them out with faults='skip'"
        raise DataError(f"{root}: {_summary(found, total)}{advice}")
    if found:
        warnings.warn(f"{root}: left out {_summary(found, total)}", AttnvizWarning, stacklevel=3)
    if not samples:
        raise DataError(
            f"{root}: no image found for the layout {format!r}; is it the right folder?"
        )
    if classes is None:
        classes = sorted({label for s in samples for label in s.labels})
    return Dataset(tuple(samples), tuple(classes), root, format)


def open_dataset(
    path: str | Path,
    *,
    format: str | None = None,
    images: str | Path | None = None,
    masks: str | Path | Mapping[str, str | Path] | None = None,
    split: str | None = None,
    faults: str = "raise",
) -> Dataset:
    """Read a dataset of images with labels, boxes or masks. Nothing is decoded yet.

    Layouts (`attnviz.data.READERS` lists them): "imagefolder" (a folder a class, below
    train/validation/test or not), "coco" (JSON), "voc" (Pascal VOC), "csv" (one row an image or a
    box), "masks" (index.json, images and label images).

    Args:
        path: the folder or annotation file.
        format: the layout's name; None recognises it.
        images: the folder that relative image names start from; None looks in the usual places.
        masks: a folder of mask files that mirror the images' names (not 0 = the image's label),
            or class name -> such a folder. They add to the masks of the dataset itself.
        split: keep one split only ("train", "validation", "test"; "val" is validation).
        faults: "raise" lists all faulty entries in one error; "skip" drops them with a warning.

    Returns:
        `Dataset`.

    Raises:
        DataError: not found, not recognised, or with faulty entries; the message lists them.
    """
    root = Path(path).expanduser()
    if not root.exists():
        raise DataError(f"dataset {root} does not exist")
    if format is None:
        format = _detect(root)
    entry = READERS.get(format)
    options: dict[str, Any] = {"faults": faults}
    if images is not None:
        images = Path(images).expanduser()
        if not images.is_dir():
            raise DataError(f"image folder {images} does not exist or is no folder")
        options["images"] = images
    dataset = entry.fn(root, **options)
    if masks is not None:
        from ._mask_folders import add_masks

        dataset = add_masks(dataset, masks, images)
    if split is not None:
        dataset = _one_split(dataset, split)
    return dataset


def _detect(root: Path) -> str:
    names = [n for n in _ORDER if n in READERS]
    names += [n for n in READERS.names() if n not in names]
    for name in names:
        if READERS.get(name).meta["detect"](root):
            return name
    raise DataError(
        f"{root} has no layout that is known. Expected one of: a folder a class; COCO JSON; "
        f"a folder with Annotations/*.xml (VOC); a CSV with a column 'path'; a folder with "
        f"index.json. Name it with format=..., one of {', '.join(READERS.names())}"
    )


#: other spellings of a split's name
SPLIT_NAMES = {"val": "validation", "valid": "validation", "dev": "validation", "training": "train"}


def split_name(name: str) -> str:
    """Return the one spelling of a split's name ("val" and "valid" are "validation")."""
    name = name.strip().lower()
    return SPLIT_NAMES.get(name, name)


def _one_split(dataset: Dataset, split: str) -> Dataset:
    kept = dataset.filter(lambda s: s.split == split_name(split))
    if not len(kept):
        known = sorted({s.split for s in dataset if s.split})
        raise DataError(
            f"{dataset.root} has no split {split!r}; it has "
            f"{known or 'none: make them with attnviz.data.splits'}"
        )
    return kept
