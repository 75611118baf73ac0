"""Composites as what users have: datasets with labels, and masks or boxes for some images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attnviz.data import Dataset, Sample, open_dataset, splits
from attnviz.data.boatwater.arrays import CLASSES, GroupedImages
from attnviz.data.masks import ArrayMask
from attnviz.guidance import Examples
from attnviz.models import Preprocess
from study import arm_list as _arm_list
from study.compositing import Composites, composite
from study.material import Material, harvest
from study.protocol import Protocol

#: the embedded network's own scaling, 2 x - 1
SCALE = Preprocess(resize=None, crop=None, mean=(0.5,) * 3, std=(0.5,) * 3, name="RGB in -1 to 1")


@dataclass(frozen=True, eq=False)
class Parts:
    """One fold and seed.

    Attributes:
        train, held: training images, and the fifth of them held back to choose the epoch.
        train_groups: of the training images, for arms that are told.
        known: images of all four groups, for arms and for moved biases; known_groups theirs.
        test: looked at once; test_groups theirs.
        objects: different objects in each group of the test.
        ordinary: images of the training's own kind, of which no part is in a training image: of
            photographs whole ones with neither boat nor water.
    """

    train: Dataset
    train_groups: Tensor
    held: Dataset
    known: Examples
    known_groups: Tensor
    test: Examples
    test_groups: Tensor
    objects: tuple[int, ...]
    ordinary: Examples


def dataset_of(images: GroupedImages, classes: tuple[str, ...] = CLASSES) -> Dataset:
    """Return composites as a dataset: a label and a mask of each thing, nothing of its context."""
    masks = images.object_mask  # made anew each time it is asked for
    samples = [
        Sample(
            id=f"{i:04d}", image=images.images[i], label=classes[images.label[i]],
            masks={classes[images.label[i]]: ArrayMask(masks[i])},
        )
        for i in range(len(images))
    ]  # fmt: skip
    return Dataset(tuple(samples), classes)


def parts_of(
    train: GroupedImages,
    known: GroupedImages,
    test: GroupedImages,
    ordinary: GroupedImages | Examples,
    *,
    seed: int,
    classes: tuple[str, ...] = CLASSES,
) -> Parts:
    """Return a world's images as `Parts`; a fifth of the training images is held back."""

    def examples(images: GroupedImages, **shares: float) -> Examples:
        return Examples(dataset_of(images, classes), SCALE, classes=classes, **shares)

    halves = splits(
        dataset_of(train, classes), {"train": 0.8, "validation": 0.2}, seed=seed,
        stratify=lambda s: s.label, duplicates="together",
    )  # fmt: skip
    bare = {"masks": 0.0, "boxes": 0.0}
    sources = np.array(test.source)
    return Parts(
        halves["train"],
        torch.from_numpy(train.group[[int(s.id) for s in halves["train"]]]),
        halves["validation"],
        examples(known, **bare),
        torch.from_numpy(known.group.copy()),
        examples(test),
        torch.from_numpy(test.group.copy()),
        tuple(len(set(sources[test.group == g])) for g in range(4)),
        ordinary if isinstance(ordinary, Examples) else examples(ordinary, **bare),
    )


@lru_cache(maxsize=1)
def material(data: str | Path) -> tuple[Dataset, Material]:
    """Return photographs, and what can be cut out of them."""
    dataset = open_dataset(data)
    return dataset, harvest(dataset)


@lru_cache(maxsize=4)
def composites(
    data: str | Path, fold: int, seed: int, folds: int, co_occurrence: float = 1.0
) -> Composites:
    """Return a fold's composites; validation and test do not depend on the co-occurrence."""
    protocol = Protocol(
        size=_arm_list.SIZE, train=320, validation=160, test=320, controls=0,
        co_occurrence=co_occurrence,
    )  # fmt: skip
    return composite(material(data)[1], fold=fold, folds=folds, seed=seed, protocol=protocol)


def load_parts(data: str | Path, fold: int, seed: int, folds: int, kind: str) -> Parts:
    """Return the parts of a fold, with training images of a kind (see `Arm.data`)."""
    made = composites(data, fold, seed, folds)
    train = made.train
    if kind in ("swapped", "boats"):
        other = composites(data, fold, seed, folds, 0.75).train
        train = other if kind == "swapped" else _joined(train, other)
    elif kind != "confounded":
        train = composites(data, fold, seed, folds, float(kind)).train
    ordinary = _ordinary(data, train)
    return parts_of(train, made.validation, made.test, ordinary, seed=seed)


def _joined(first: GroupedImages, second: GroupedImages) -> GroupedImages:
    """The other things of the first with the boats of the second."""
    from dataclasses import replace

    a, b = first.subset(first.label == 0), second.subset(second.label == 1)
    arrays = ("images", "region", "label", "context")
    joined = {n: np.concatenate([getattr(a, n), getattr(b, n)]) for n in arrays}
    names = {n: getattr(a, n) + getattr(b, n) for n in ("source", "background", "kind")}
    return replace(first, **joined, **names)


def _ordinary(data: str | Path, train: GroupedImages) -> Examples:
    used = {*train.source, *train.background}
    kept = [
        Sample(id=s.id, image=s.image, label="other")
        for s in material(data)[0]
        if not {"boat", "water"} & set(s.labels) and s.source not in used and s.id not in used
    ]
    side = (_arm_list.SIZE, _arm_list.SIZE)
    squeezed = Preprocess(resize=side, crop=None, mean=(0.5,) * 3, std=(0.5,) * 3)
    return Examples(Dataset(tuple(kept), CLASSES), squeezed, classes=CLASSES, masks=0.0, boxes=0.0)


class Rows:
    """Some rows of examples, in this order, each as often as it is named."""

    def __init__(self, data: Any, rows: Sequence[int]) -> None:
        self.data, self.rows = data, list(rows)
        self.flip = bool(getattr(data, "flip", False))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> Any:
        return self.data[self.rows[i]]

    def example(self, i: int, *, mirrored: bool = False) -> Any:
        """Return one example as it is, or mirrored."""
        return self.data.example(self.rows[i], mirrored=mirrored)


class Joined:
    """One dataset of examples after another."""

    def __init__(self, *parts: Any) -> None:
        self.parts = parts
        self.flip = any(getattr(p, "flip", False) for p in parts)

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def _at(self, i: int) -> tuple[Any, int]:
        for part in self.parts:
            if i < len(part):
                return part, i
            i -= len(part)
        raise IndexError(i)

    def __getitem__(self, i: int) -> Any:
        part, row = self._at(i)
        return part[row]

    def example(self, i: int, *, mirrored: bool = False) -> Any:
        """Return one example as it is, or mirrored."""
        part, row = self._at(i)
        return part.example(row, mirrored=mirrored)


def evenly(groups: Tensor) -> list[int]:
    """Return rows in which every group is as frequent as the largest."""
    found = [(groups == g).nonzero()[:, 0].tolist() for g in groups.unique().tolist()]
    most = max(map(len, found))
    return [own[k % len(own)] for own in found for k in range(most)]
