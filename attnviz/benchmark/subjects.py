"""The images that methods are compared on, with what is known of where the object is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..data import BoxMask, Dataset, Sample, mask_box
from ..data.masks import UnionMask
from ..errors import DataError


def from_photos(photos: Sequence[Path]) -> list[Sample]:
    """Return photos without annotation, by their paths."""
    return [Sample(str(p), p) for p in photos]


def from_dataset(dataset: Dataset, mask: str | None = None) -> list[Sample]:
    """Return a dataset's samples with the mask and boxes of one class each, which is their label.

    Args:
        dataset: see `attnviz.data.open_dataset`.
        mask: the class whose place counts. None takes the sample's own label, or its only class;
            a sample for which neither is clear has no annotation.

    Raises:
        DataError: no sample has class `mask`.
    """
    found = [_one_class(sample, mask) for sample in dataset]
    if mask is not None and not any(s.masks for s in found):
        known = sorted({name for s in dataset for name in s.masks} | {*dataset.classes})
        raise DataError(f"no sample has a mask or box of {mask!r}; there is {', '.join(known)}")
    return found


def _one_class(sample: Sample, wanted: str | None) -> Sample:
    name = wanted or _object(sample)
    boxes = tuple(b for b in sample.boxes if b.label == name and not b.crowd)
    masks = {}
    if name is not None and sample.has_mask(name):
        masks = {name: sample.masks[name]}
    elif name is not None and boxes:
        masks = {name: UnionMask(tuple(BoxMask(b.coordinates) for b in boxes))}
    return replace(sample, label=sample.label or name, boxes=boxes, masks=masks)


def _object(sample: Sample) -> str | None:
    if sample.label is not None:
        return sample.label
    names = {*sample.masks, *(b.label for b in sample.boxes)}
    return names.pop() if len(names) == 1 else None


def object_mask(sample: Sample) -> np.ndarray | None:
    """Return where the object is on the photo, (h, w) bool; None: not annotated."""
    name = next(iter(sample.masks), None)
    return None if name is None else sample.mask(name)


def object_boxes(
    sample: Sample, mask: np.ndarray | None
) -> list[tuple[float, float, float, float]]:
    """Return the object's boxes on the photo, or else the box around its mask."""
    around = None if sample.boxes or mask is None else mask_box(mask)
    return [b.coordinates for b in sample.boxes] or ([] if around is None else [around])
