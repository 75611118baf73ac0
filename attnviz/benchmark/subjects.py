"""The images that methods are compared on, with what is known of where the object is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..data import Dataset, Sample, mask_box
from ..errors import DataError
from ..geometry import Geometry


@dataclass(frozen=True, eq=False)
class Subject:
    """One image.

    Attributes:
        id: unique among those compared.
        read: gives the pixels, (h, w, 3) uint8 RGB, upright.
        label: the class of the annotation, or None.
        mask: gives where the object is on the photo, (h, w) bool; None: not annotated.
        boxes: half-open (x0, y0, x1, y1) on the photo.
        file: where the pixels come from, or None.
    """

    id: str
    read: Callable[[], np.ndarray]
    label: str | None = None
    mask: Callable[[], np.ndarray] | None = None
    boxes: tuple[tuple[float, float, float, float], ...] = ()
    file: Path | None = None

    @property
    def stamp(self) -> str:
        """Return the file's size and time: results of a changed file are not kept."""
        if self.file is None or not self.file.is_file():
            return ""
        facts = self.file.stat()
        return f"{facts.st_size} {facts.st_mtime_ns}"

    def mask_on_input(self, geometry: Geometry) -> Tensor | None:
        """Return where the object is on the model's input, (H, W) bool; None: not annotated."""
        return None if self.mask is None else mask_on_input(self.mask(), geometry)

    def boxes_on_input(self, geometry: Geometry) -> list[tuple[float, float, float, float]]:
        """Return the boxes on the model's input in its pixels; those outside the crop go."""
        return boxes_on_input(self.boxes, geometry)


def mask_on_input(mask: np.ndarray, geometry: Geometry) -> Tensor:
    """Return a photo's mask (h, w) bool as the model's input shows it, (H, W) bool.

    Each pixel of the input takes the pixel of the photo that its centre falls on; beyond the photo
    there is nothing.
    """
    height, width = geometry.input_size
    if tuple(mask.shape) != tuple(geometry.image_size):
        raise DataError(f"a mask is {mask.shape}, its photo {tuple(geometry.image_size)} (h, w)")
    corner = geometry.to_image(0.0, 0.0)
    end = geometry.to_image(float(width), float(height))
    columns = corner[0] + (np.arange(width) + 0.5) * (end[0] - corner[0]) / width
    rows = corner[1] + (np.arange(height) + 0.5) * (end[1] - corner[1]) / height
    columns, rows = np.floor(columns).astype(int), np.floor(rows).astype(int)
    inside = ((rows >= 0) & (rows < mask.shape[0]))[:, None] & (
        (columns >= 0) & (columns < mask.shape[1])
    )[None]
    near = mask[np.ix_(rows.clip(0, mask.shape[0] - 1), columns.clip(0, mask.shape[1] - 1))]
    return torch.from_numpy(np.ascontiguousarray(near.astype(bool) & inside))


def boxes_on_input(
    boxes: Sequence[tuple[float, float, float, float]], geometry: Geometry
) -> list[tuple[float, float, float, float]]:
    """Return boxes of the photo on the model's input, cut at its edges; those outside go."""
    height, width = geometry.input_size
    found = []
    for x0, y0, x1, y1 in boxes:
        left, top = geometry.to_input(x0, y0)
        right, bottom = geometry.to_input(x1, y1)
        left, right = max(left, 0.0), min(right, float(width))
        top, bottom = max(top, 0.0), min(bottom, float(height))
        if left < right and top < bottom:
            found.append((left, top, right, bottom))
    return found


def from_photos(photos: Sequence[Path]) -> list[Subject]:
    """Return photos without annotation, by their paths."""
    from ..images import read_image

    return [Subject(str(p), lambda p=p: read_image(p), file=p) for p in photos]


def from_dataset(dataset: Dataset, mask: str | None = None) -> list[Subject]:
    """Return a dataset's samples with the mask and boxes of one class each.

    Args:
        dataset: see `attnviz.data.open_dataset`.
        mask: the class whose place counts. None takes the sample's own label, or its only class;
            a sample for which neither is clear has no annotation.

    Raises:
        DataError: no sample has class `mask`.
    """
    subjects = [_subject(sample, mask) for sample in dataset]
    if mask is not None and not any(s.mask for s in subjects):
        known = sorted({name for s in dataset for name in s.masks} | {*dataset.classes})
        raise DataError(f"no sample has a mask or box of {mask!r}; there is {', '.join(known)}")
    return subjects


def _subject(sample: Sample, wanted: str | None) -> Subject:
    name = wanted or _object(sample)
    boxes = tuple(b.coordinates for b in sample.boxes if b.label == name and not b.crowd)
    mask = None
    if name is not None and sample.has_mask(name):

        def mask() -> np.ndarray:
            return sample.mask(name)

    elif boxes:

        def mask() -> np.ndarray:
            return sample.box_mask(name)

    if mask is not None and not boxes:
        found = mask_box(mask())
        boxes = () if found is None else (found,)
    file = sample.image if isinstance(sample.image, Path) else None
    return Subject(sample.id, sample.read, sample.label or name, mask, boxes, file)


def _object(sample: Sample) -> str | None:
    if sample.label is not None:
        return sample.label
    names = {*sample.masks, *(b.label for b in sample.boxes)}
    return names.pop() if len(names) == 1 else None
