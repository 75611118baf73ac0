"""Candidate contexts by concept: what a layer sees in the photos, each judged by an audit.

The concepts are those of `attnviz.concepts`. Where a concept is on a photo takes the place of an
annotated context in `confusion`, so that it is emptied, exchanged and compared as any other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..concepts import concept_vectors, held, rows_of
from ..data.prepared import Preparation
from ..geometry import size_of
from ..methods import Request, forward_pass
from ..models.dense import DensePrompts
from ..render.place import place_tensor
from ..statistics.clustering import otsu
from .measuring import Audited
from .pictures import BACKGROUND, PRESENT, PictureReader
from .running import confusion
from .verdict import Verdict

#: photos of a concept that a name is read off
NAMED_BY = 8


@dataclass(frozen=True, eq=False)
class Candidates:
    """The concepts of a layer, and where on a photo each of them is.

    Attributes:
        audited: the model.
        prepare: photo -> (tensor, Geometry).
        layer: dotted name.
        vectors: (K, C), the largest concept first.
        thresholds: (K,) how much of a concept is there where it is.
        maps: (N, K, h, w) how much of each the photos hold that they were found in.
    """

    audited: Audited
    prepare: Preparation
    layer: str
    vectors: Tensor
    thresholds: Tensor
    maps: Tensor

    @classmethod
    def found(
        cls, audited: Audited, prepare: Preparation, layer: str, activation: Tensor, count: int
    ) -> Candidates:
        """Return the concepts of activations (N, C, h, w)."""
        rows = rows_of(activation).clamp_min(0)
        vectors = concept_vectors(rows, count, layer)[1]
        maps = _maps(activation, vectors)
        thresholds = torch.tensor([otsu(part) for part in maps.transpose(0, 1).flatten(1)])
        return cls(audited, prepare, layer, vectors, thresholds, maps)

    def present(self) -> Tensor:
        """Return which of the photos show which concept, (N, K) bool."""
        return (self.maps > self.thresholds[:, None, None]).float().mean((2, 3)) >= PRESENT

    def mask(self, number: int) -> Callable[[np.ndarray], np.ndarray]:
        """Return the function: photo (h, w, 3) uint8 -> where the concept is, (h, w) bool."""

        def concept(photo: np.ndarray) -> np.ndarray:
            tensor, place = self.prepare(photo)
            x = tensor[None].to(self.audited.device)
            with self.audited.running(), torch.no_grad():
                request = Request(self.audited.module, x, 1, input_size=size_of(x))
                done = forward_pass(request, layers=[self.layer], gradients=False)
            maps = _maps(done.activations[self.layer].detach().float().cpu(), self.vectors)
            placed = place_tensor(maps[:, number], place)[0]
            return (placed > self.thresholds[number]).numpy()

        return concept

    def on_object(self, samples: Sequence[Any], numbers: Sequence[int], object: str) -> Tensor:
        """Return which share of each concept lies on the object, (K,); NaN where none is there.

        Args:
            samples: the data. numbers: those whose maps are in `maps`, in order.

        Raises:
            DataError: no image says where the object is.
        """
        reader = PictureReader(samples, object, BACKGROUND, prepare=self.prepare)
        inside, everywhere = torch.zeros(len(self.vectors)), torch.zeros(len(self.vectors))
        for row, number in enumerate(numbers):
            mask = reader.read(number).object_mask
            if mask is not None:
                there = self.maps[row] > self.thresholds[:, None, None]
                shown = F.adaptive_avg_pool2d(mask[None].float(), size_of(there))
                inside += (there * shown).sum((1, 2))
                everywhere += there.sum((1, 2))
        return inside / everywhere

    def name(self, number: int, words: DensePrompts, photos: Iterable[np.ndarray]) -> str:
        """Return the prompt that an image-text model sees most of where the concept is."""
        inside = self.mask(number)
        total = torch.zeros(len(words.labels))
        for photo in photos:
            logits, place = words.of(photo)
            shares = place_tensor(logits.float().softmax(0).cpu(), place)
            seen = torch.from_numpy(inside(photo)) & shares[0].isfinite()
            total += shares[:, seen].sum(1)
        return words.labels[int(total.argmax())]

    def judge(
        self, number: int, name: str, model: Any, samples: Sequence[Any], **options: Any
    ) -> Verdict:
        """Return the verdict of an audit that takes the concept as the context.

        Args:
            name: of the concept. options: of `confusion`.
        """
        return confusion(
            model, samples, context=name, context_masks=self.mask(number), methods=("gradcam",),
            examples=0, allow_empty_groups=True, **options,
        ).verdict  # fmt: skip


def _maps(activation: Tensor, vectors: Tensor) -> Tensor:
    """Return how much of each concept is at each position, (B, K, h, w)."""
    amounts = held(rows_of(activation), vectors)
    return amounts.unflatten(0, (len(activation), *activation.shape[-2:])).permute(0, 3, 1, 2)
