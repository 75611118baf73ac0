"""A list of samples with its class names, and the registry of readers that make them."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import overload

from ..errors import AttnvizWarning, DataError, did_you_mean
from ..registry import Registry
from .sample import Sample

#: name -> reader; one file in `attnviz/data/readers/` adds a layout. `meta["detect"]` says whether
#: a path looks like the reader's own.
READERS = Registry(
    "dataset format", "attnviz.data.readers", error=DataError, plugins="attnviz.readers"
)


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
                f"class {name!r} is not in the dataset{did_you_mean(name, self.classes) or '.'} "
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
            if isinstance(sample.image, Path) and not os.path.isfile(sample.image):
                raise DataError(f"sample {sample.id!r}: image {sample.image} does not exist")
            samples.append(sample)
        except DataError as fault:
            found.append(str(fault))
        except (TypeError, ValueError, OverflowError, LookupError, AttributeError) as fault:
            # a reader that did not think of it: still a fault of this entry, and said where
            found.append(f"{root}, entry {total}: {type(fault).__name__}: {fault}")
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


#: other spellings of a split's name
SPLIT_NAMES = {"val": "validation", "valid": "validation", "dev": "validation", "training": "train"}


def split_name(name: str) -> str:
    """Return the one spelling of a split's name ("val" and "valid" are "validation")."""
    name = name.strip().lower()
    return SPLIT_NAMES.get(name, name)
