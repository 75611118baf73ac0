"""The benchmark on whole photos: boats, photos without water, and water without boats.

Training sees the boats (all on water) and photos without any water. Water without a boat is held
out altogether: a model that reads the water calls it a boat.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from attnviz.data.boatwater.arrays import ELSEWHERE, LAND, OBJECT, WATER, GroupedImages
from attnviz.data.dataset import Dataset
from attnviz.data.sample import Sample
from attnviz.data.splitting import divide, join_duplicates
from attnviz.errors import DataError
from study.material import GROUND


@dataclass(frozen=True, eq=False)
class WholePhotos:
    """One fold of whole photos; no photo is in two parts.

    Attributes:
        train: groups boat/water and other/land.
        validation, test: these two, and other/water, which training never sees. The group
            boat/land stays empty: such photos are rare (see `compositing` for all four).
    """

    train: GroupedImages
    validation: GroupedImages
    test: GroupedImages


def whole_photos(
    dataset: Dataset,
    *,
    object: str = "boat",
    context: str = "water",
    land: Sequence[str] | None = None,
    fold: int = 0,
    folds: int = 2,
    size: int = 128,
    min_object: float = 0.0,
    duplicates: str = "together",
) -> WholePhotos:
    """Sort photos by what is in them and divide them by source.

    Args:
        dataset: photos with masks. Those with the object but without the context are left out.
        object, context: class names.
        land: classes that make land; None takes those usual ones that occur.
        fold: which of the folds is the test, from 0; of the rest, three tenths are validation.
        folds: number of folds.
        size: photos are squeezed to this many pixels each way (all alike, whatever their shape).
        min_object: leave out photos whose object covers a smaller share.
        duplicates: photos that show the same: in one fold ("together"), or an error ("refuse").

    Returns:
        `WholePhotos`. In the regions, OBJECT marks boats only: other photos have no mask of it.

    Raises:
        DataError: unknown classes, object = context, or a group with too few photos.
    """
    if object == context:
        raise DataError(f"object and context are both {object!r}; they must be two classes")
    if not 0 <= fold < folds or folds < 2:
        raise DataError(f"fold {fold} of {folds}: expected 2 or more folds, counted from 0")
    for name in (object, context, *(land or ())):
        dataset.class_index(name)
    land = tuple(land or (n for n in GROUND if n in dataset.classes and n != context))
    joined = join_duplicates(dataset, refuse=duplicates == "refuse")
    chosen: list[tuple[Sample, str, int]] = []
    for sample, source in zip(dataset, joined, strict=True):
        boat, wet = object in sample.labels, context in sample.labels
        if boat and not wet:
            continue
        if boat and min_object and sample.mask(object).mean() < min_object:
            continue
        chosen.append((sample, source, 2 * boat + wet))
    counts = {g: sum(c[2] == g for c in chosen) for g in (0, 1, 3)}
    if min(counts.values()) < 2 * folds:
        raise DataError(
            f"{counts[3]} photos of {object} with {context}, {counts[1]} of {context} alone and "
            f"{counts[0]} of neither; expected at least {2 * folds} of each for {folds} folds"
        )
    sources = [c[1] for c in chosen]
    groups = [c[2] for c in chosen]
    of_fold = divide(sources, groups, np.full(folds, 1 / folds), seed=0, warn=False)
    rest = np.flatnonzero(of_fold != fold)
    inner = divide(
        [sources[i] for i in rest],
        [groups[i] for i in rest],
        np.array([0.7, 0.3]),
        seed=1,
        warn=False,
    )
    train = [i for i, p in zip(rest, inner, strict=True) if p == 0 and groups[i] != 1]
    # Water without a boat is for testing; what falls to training goes to validation, unless
    # training has a photo of the same source.
    seen = {sources[i] for i in train}
    parts = {
        "train": train,
        "validation": [
            i
            for i, p in zip(rest, inner, strict=True)
            if p == 1 or (groups[i] == 1 and sources[i] not in seen)
        ],
        "test": np.flatnonzero(of_fold == fold).tolist(),
    }
    made = {
        name: _gather([chosen[i] for i in sorted(part)], object, context, land, size, name, fold)
        for name, part in parts.items()
    }
    return WholePhotos(**made)


def _gather(
    chosen: Sequence[tuple[Sample, str, int]],
    object: str,
    context: str,
    land: Sequence[str],
    size: int,
    part: str,
    fold: int,
) -> GroupedImages:
    images = np.empty((len(chosen), size, size, 3), np.uint8)
    region = np.empty((len(chosen), size, size), np.uint8)
    for i, (sample, _, _) in enumerate(chosen):
        pixels = sample.read()
        numbers = np.full(pixels.shape[:2], ELSEWHERE, np.uint8)
        for names, value in ((land, LAND), ((context,), WATER), ((object,), OBJECT)):
            for name in names:
                if name in sample.labels and sample.has_mask(name):
                    numbers[sample.mask(name)] = value
        images[i] = cv2.resize(pixels, (size, size), interpolation=cv2.INTER_AREA)
        region[i] = cv2.resize(numbers, (size, size), interpolation=cv2.INTER_NEAREST)
    groups = np.array([c[2] for c in chosen], np.int64)
    sources = tuple(c[1] for c in chosen)
    return GroupedImages(
        images=images,
        region=region,
        label=groups // 2,
        context=groups % 2,
        source=sources,
        background=sources,
        kind=tuple(object if g >= 2 else "" for g in groups),
        meta={"generator": "study.whole_photos", "part": part, "fold": fold},
    )
