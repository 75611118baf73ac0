"""Masks that a segmenter makes, where the data has none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from ..errors import DataError
from .dataset import Dataset
from .masks import MaskSource, RunLengthMask, rle_encode


def with_segments(
    dataset: Dataset,
    segment: Callable[[np.ndarray], np.ndarray],
    numbers: Mapping[str, int],
    *,
    source: str,
    everywhere: Sequence[str] = (),
) -> tuple[Dataset, int]:
    """Return the dataset with a segmenter's masks added, and how many were found empty.

    A class is looked for in the images that are labelled with it and have no mask or box of it.
    Masks are held as run lengths, and say where they are from (`Sample.mask_source`).

    Args:
        dataset: each image is read once if a class is to be looked for in it.
        segment: photo (h, w, 3) uint8 -> class of each pixel (h, w).
        numbers: class of the data -> its number among the segmenter's.
        source: what the segmenter is called.
        everywhere: classes that are looked for in all images, whatever their labels.

    Raises:
        DataError: the segmenter's answer has another size than the photo.
    """
    samples, empty = [], 0
    for sample in dataset:
        wanted = [
            name for name in numbers
            if (name in sample.labels or name in everywhere) and not sample.has_mask(name)
            and not any(b.label == name for b in sample.boxes)
        ]  # fmt: skip
        if not wanted:
            samples.append(sample)
            continue
        photo = sample.read()
        found = np.asarray(segment(photo))
        if found.shape != photo.shape[:2]:
            raise DataError(
                f"{source} gave {found.shape} for sample {sample.id!r}, expected {photo.shape[:2]}"
            )
        masks: dict[str, MaskSource] = {}
        for name in wanted:
            mask = found == numbers[name]
            if mask.any():
                masks[name] = RunLengthMask(tuple(rle_encode(mask)), photo.shape[:2])
            else:
                empty += name in sample.labels
        origin = {**sample.meta.get("masks_from", {}), **dict.fromkeys(masks, source)}
        samples.append(
            replace(sample, masks={**sample.masks, **masks},
                    meta={**sample.meta, "masks_from": origin})
        )  # fmt: skip
    return replace(dataset, samples=tuple(samples)), empty
