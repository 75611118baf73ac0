"""Where the arms are tried: photographs, digits on coloured grounds, generated scenes.

Each world has two classes and two contexts, so four groups, numbered 2 * class + context. In the
training images a class comes with a context of its own, always or nearly always.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from attnviz.data import Dataset
from attnviz.data.boatwater import generate
from attnviz.data.boatwater.arrays import GROUPS, LAND, OBJECT, WATER, GroupedImages
from attnviz.errors import DataError
from attnviz.guidance import Examples, new_head
from attnviz.guidance.tails import Features
from attnviz.models import load
from study.arm_data import SCALE, Parts, load_parts, parts_of

#: what is tried where all of a small network is trained from the start
SMALL_ARMS = (
    "plain", "guide", "guide_30", "exchange", "energy", "gain", "dfr", "guide_dfr", "balanced",
    "jtt", "group_dro",
)  # fmt: skip
#: settings of `fit` for such a network
SMALL: dict[str, Any] = {
    "train": "all", "cache": None, "lr": 1e-2, "steps": 300, "batch_size": 32, "exchanged": 24,
}  # fmt: skip


@dataclass(frozen=True)
class World:
    """A kind of images, and the network that learns them.

    Attributes:
        name, summary: for the command line and tables.
        groups: names of the four.
        parts: (data, fold, seed, folds, kind) -> `Parts`.
        network: seed -> an untrained classifier, or a trained one with a new head.
        settings: of `fit`, for all arms.
        flip: mirror training images at random.
        arms: names of those that are tried, None for all.
        shared: runs of one fold are judged on the same objects.
    """

    name: str
    summary: str
    groups: tuple[str, ...]
    parts: Callable[[Any, int, int, int, str], Parts]
    network: Callable[[int], nn.Module]
    settings: Mapping[str, Any] = field(default_factory=dict)
    flip: bool = True
    arms: tuple[str, ...] | None = None
    shared: bool = True

    def examples(self, dataset: Dataset, *, flip: bool = False, **shares: Any) -> Any:
        """Return a dataset's examples; of small images, which are many a second, kept as read."""
        found = Examples(dataset, SCALE, flip=flip, **shares)
        if self.arms is None:
            return found
        return Features(found, lambda images: images, flip, torch.device("cpu"))


class TinyNet(nn.Module):
    """Three convolutions, two of them halving, global average pooling, a linear head."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        sizes = (3, width, 2 * width, 2 * width)
        for k, stride in enumerate((2, 1, 2)):
            inside, outside = sizes[k : k + 2]
            layers += [
                nn.Conv2d(inside, outside, 3, stride, 1, bias=False),
                nn.BatchNorm2d(outside), nn.ReLU(),
            ]  # fmt: skip
        self.stages = nn.Sequential(*layers)
        self.fc = nn.Linear(2 * width, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, 2) logits."""
        return self.fc(self.stages(x).mean((2, 3)))


def _seeded(make: Callable[[], nn.Module]) -> Callable[[int], nn.Module]:
    def network(seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return make()

    return network


def rates(kind: str) -> tuple[float, float]:
    """Return the share of each class that is in its own context, for a kind of training images."""
    known = {"confounded": (1.0, 1.0), "swapped": (0.75, 0.75), "boats": (1.0, 0.75)}
    return known[kind] if kind in known else (float(kind),) * 2


def groups_of(count: int, kind: str, rng: np.random.Generator) -> np.ndarray:
    """Return groups (count,) in random order: classes alike, contexts by the kind's rates."""
    made = []
    for label, share in enumerate(rates(kind)):
        own = count // 2 + (label and count % 2)
        aligned = round(share * own)
        made += [3 * label] * aligned + [label + 1] * (own - aligned)
    return rng.permutation(np.array(made, np.int64))


# -- digits --------------------------------------------------------------------------------------

DIGITS = ("even/blue", "even/orange", "odd/blue", "odd/orange")
#: ground colours of the two contexts, RGB
COLOURS = ((40, 80, 200), (220, 120, 30))


def colour(
    ink: np.ndarray, groups: np.ndarray, names: tuple[str, ...], rng: np.random.Generator
) -> GroupedImages:
    """Return digits (N, 8, 8) from 0 to 1 as white strokes on grounds of their groups' colours.

    Grounds vary in brightness and have noise; images are of 32 x 32 pixels, masks are the strokes.
    """
    count, side = len(ink), 32
    images = np.empty((count, side, side, 3), np.uint8)
    region = np.empty((count, side, side), np.uint8)
    for i in range(count):
        grey = cv2.resize(ink[i], (side, side), interpolation=cv2.INTER_CUBIC)
        strokes = np.clip((grey - 0.35) / 0.2, 0, 1)  # sharp: a mask that leaves no rim of ground
        context = int(groups[i] % 2)
        ground = np.array(COLOURS[context]) * rng.uniform(0.7, 1.15)
        ground = ground + rng.normal(0, 12, (side, side, 3))
        white = 255 * rng.uniform(0.8, 1.0)
        mixed = ground + strokes[..., None] * (white - ground)
        images[i] = np.clip(np.rint(mixed), 0, 255)
        region[i] = np.where(strokes >= 1, OBJECT, (LAND, WATER)[context])
    label = groups // 2
    return GroupedImages(
        images, region, label, groups % 2, names, names, tuple(str(n) for n in label)
    )


@lru_cache(maxsize=1)
def _digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    loaded = load_digits()
    return (loaded.images / 16).astype(np.float32), loaded.target % 2


def digit_parts(_data: Any, fold: int, seed: int, folds: int, kind: str) -> Parts:
    """Return scikit-learn's 1797 digits, even or odd, on blue or orange.

    A fold is for the test alone. Groups, colours and noise are the seed's, and so is which digits
    of the rest have known groups.
    """
    if folds < 2:
        raise DataError(
            f"{folds} folds of the digits: one is for the test, so 2 or more are needed"
        )
    ink, odd = _digits()
    order = np.random.default_rng(0).permutation(len(ink))
    away, near = (
        order[fold::folds],
        np.concatenate([order[f::folds] for f in range(folds) if f != fold]),
    )
    rng = np.random.default_rng((seed, fold))
    near = rng.permutation(near)

    def part(rows: np.ndarray, count: int, wanted: np.ndarray) -> tuple[GroupedImages, np.ndarray]:
        """Digits for groups, and the rows that are left."""
        taken, groups = [], []
        for label in (0, 1):
            own = rows[odd[rows] == label]
            asked = wanted[wanted // 2 == label][: len(own)]
            taken += own[: len(asked)].tolist()
            groups += asked.tolist()
        chosen = np.array(taken)
        names = tuple(f"digit {r}" for r in chosen)
        made = colour(ink[chosen], np.array(groups), names, rng)
        shuffled = rng.permutation(len(chosen))
        return made.subset(shuffled), np.setdiff1d(rows, chosen, assume_unique=True)

    test, rest = part(away, 320, np.tile(np.arange(4), 80))
    ordinary, _ = part(rest, len(rest), groups_of(2 * len(rest), "confounded", rng))
    known, near = part(near, 160, np.tile(np.arange(4), 40))
    train, _ = part(near, len(near), groups_of(len(near), kind, rng))
    return parts_of(train, known, test, ordinary, seed=seed, classes=("even", "odd"))


# -- scenes --------------------------------------------------------------------------------------


def scene_parts(_data: Any, fold: int, seed: int, folds: int, kind: str) -> Parts:
    """Return generated scenes of 32 pixels; nothing is shared between runs."""
    rng = np.random.default_rng((seed, fold))

    def made(groups: np.ndarray, number: int) -> GroupedImages:
        return generate(size=32, seed=100 * (folds * seed + fold) + number, groups=groups.tolist())

    even = np.arange(4)
    return parts_of(
        made(groups_of(640, kind, rng), 1), made(np.tile(even, 40), 2), made(np.tile(even, 80), 3),
        made(groups_of(320, "confounded", rng), 4), seed=seed, classes=("other", "boat"),
    )  # fmt: skip


WORLDS = {
    w.name: w
    for w in (
        World(
            "photographs", "cut-outs of boats and other things on water and land", GROUPS,
            load_parts, lambda seed: new_head(load().module, 2, seed=seed),
        ),
        World(
            "digits", "even and odd digits on blue and orange", DIGITS, digit_parts,
            _seeded(TinyNet), SMALL | {"exchange_options": {"flip": False, "edge": 0}}, False,
            SMALL_ARMS,
        ),
        World(
            "scenes", "generated boats and other things on water and land", GROUPS, scene_parts,
            _seeded(TinyNet), SMALL, arms=SMALL_ARMS, shared=False,
        ),
    )
}  # fmt: skip
