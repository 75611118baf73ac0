"""What a dataset holds, found before training: labels, annotation, and the order of batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .annotation import BOX, MASK
from .batches import Batch, collate, is_map_style
from .checkpoints import own_random_state
from .examples import Examples

#: annotated images of a class that are kept for exchange, drawn evenly from all
MOST_KEPT = 150


@dataclass(frozen=True, eq=False)
class Survey:
    """What is known of a map-style dataset.

    Attributes:
        labels: (N,) int64.
        annotated: (N,) bool, has a mask, box, scribble or points.
        regions: (N,) bool, has a mask or box: an object that can be cut out.
        absent: labels that say that the object is not there.
    """

    labels: Tensor
    annotated: Tensor
    regions: Tensor
    absent: frozenset[int] = frozenset()

    def counts(self) -> dict[int, int]:
        """Return images of each class."""
        classes, counts = self.labels.unique(return_counts=True)
        return dict(zip(classes.tolist(), counts.tolist(), strict=True))

    @property
    def imbalance(self) -> float:
        """How many times the largest class is the smallest."""
        counts = self.counts().values()
        return max(counts) / min(counts)


def survey(data: Any, *, degenerate: str = "error") -> Survey | None:
    """Read what a dataset holds; None for a stream, which can be read once only.

    `Examples` know without reading; any other dataset is read through once, its random state put
    back afterwards.
    """
    if isinstance(data, Examples):
        kinds = [k != "none" for k in data.kinds]
        known = torch.tensor(kinds)
        return Survey(torch.tensor(data.labels), known, known, data.absent)
    if not is_map_style(data) or not len(data):
        return None
    labels, kinds = [], []
    with own_random_state(0):
        for i in range(len(data)):
            one = read(data, [i], degenerate=degenerate)
            labels.append(int(one.labels[0]))
            kinds.append(int(one.annotation.kind[0]))
    found = torch.tensor(kinds)
    regions = (found == MASK) | (found == BOX)
    absent = frozenset(getattr(data, "absent", ()))
    return Survey(torch.tensor(labels), found > 0, regions, absent)


def read(data: Any, rows: Sequence[int], *, degenerate: str = "skip") -> Batch:
    """Return some examples of a map-style dataset as a batch, as they are where that is known."""
    get = getattr(data, "example", None) or data.__getitem__
    name_of = getattr(data, "name_of", None)
    return collate([(i, get(i)) for i in rows], degenerate=degenerate, name_of=name_of)


def order_of(
    known: Survey, batch_size: int, *, seed: int, balanced: bool, annotated: float
) -> list[int]:
    """Return the rows of an epoch, of as many images as there are, in the order of its batches.

    Args:
        known: what the data holds.
        batch_size: images in a batch.
        seed: of the order.
        balanced: draw every class equally often, so that images of a rare one come repeatedly.
        annotated: share of each batch that is drawn from the annotated images, evenly over their
            classes; 0 leaves it to chance. Where more are annotated, all images are drawn alike.
    """
    generator = torch.Generator().manual_seed(seed)
    everything = torch.arange(len(known.labels))
    stream = _Turns(everything, known.labels, balanced, generator)
    marked = known.annotated.nonzero()[:, 0]
    share = len(marked) / len(everything)
    few = 0 < share < annotated
    first = _Turns(marked, known.labels, True, generator) if few else None
    order: list[int] = []
    while len(order) < len(everything):
        size = min(batch_size, len(everything) - len(order))
        head = round(annotated * size) if first is not None else 0
        order += [first.draw() for _ in range(head)] if first is not None else []
        order += [stream.draw() for _ in range(size - head)]
    return order


class _Turns:
    """Draws rows without repetition until all were drawn; class by class if balanced."""

    def __init__(
        self, rows: Tensor, labels: Tensor, balanced: bool, generator: torch.Generator
    ) -> None:
        classes = labels[rows].unique().tolist() if balanced else [None]
        self.rows = [rows if c is None else rows[labels[rows] == c] for c in classes]
        self.left: list[list[int]] = [[] for _ in classes]
        self.turn = 0
        self.generator = generator

    def draw(self) -> int:
        own = self.turn % len(self.rows)
        self.turn += 1
        if not self.left[own]:
            drawn = torch.randperm(len(self.rows[own]), generator=self.generator)
            self.left[own] = self.rows[own][drawn].tolist()
        return self.left[own].pop()
