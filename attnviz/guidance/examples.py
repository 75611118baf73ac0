"""`Examples`: a dataset of `attnviz.data` as `fit` takes it, masks and boxes moved with images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..data import Dataset, Sample, mask_box
from ..data.prepared import Prepared
from ..errors import DataError, ModelError
from ..geometry import Geometry
from ..hooks import unwrap

KINDS = ("masks", "boxes", "none")


class Examples:
    """A map-style dataset of (image, label, mask | boxes | None).

    Args:
        dataset: images with labels, and masks or boxes of their classes.
        preprocess: photo -> (tensor (3, h, w), `Geometry`), as `attnviz.load(...).preprocess`.
        classes: class names in the order of the model's outputs; None takes the dataset's.
        object: make it a question of two classes, ("other", object): whether the object is in the
            image. For datasets whose images have several labels or none of their own.
        masks: share of the images with masks that are shown with them.
        boxes: share of the rest (with boxes, or masks to put boxes around) shown with boxes.
        flip: mirror images at random (torch's random state), annotation with them.
        seed: of the choice of annotated images, which is balanced by class.

    Raises:
        DataError: an image without a label among the classes; nothing annotated although asked.
    """

    def __init__(
        self,
        dataset: Dataset | Sequence[Sample],
        preprocess: Callable[[np.ndarray], tuple[Tensor, Geometry]],
        *,
        classes: Sequence[str] | None = None,
        object: str | None = None,
        masks: float = 1.0,
        boxes: float = 1.0,
        flip: bool = False,
        seed: int = 0,
    ) -> None:
        if not (0 <= masks <= 1 and 0 <= boxes <= 1):
            raise DataError(f"masks {masks} and boxes {boxes} are shares from 0 to 1")
        self.samples = list(dataset)
        self.preprocess, self.flip = preprocess, flip
        if object is not None:
            if isinstance(dataset, Dataset):
                dataset.class_index(object)
            names: tuple[str, ...] = ("other", object)
            self._names = [object if object in s.labels else "other" for s in self.samples]
        else:
            own = {s.label for s in self.samples if s.label is not None}
            listed = dataset.classes if isinstance(dataset, Dataset) else ()
            names = tuple(classes or [n for n in listed if n in own] or sorted(own))
            self._names = [s.label or "" for s in self.samples]
        self.classes = names
        wrong = [s.id for s, n in zip(self.samples, self._names, strict=True) if n not in names]
        if wrong and not names:
            inside = sorted({label for s in self.samples for label in s.labels})
            raise DataError(
                "no image has a label of its own; what is in them is: "
                f"{', '.join(inside[:10]) or 'nothing'}. Ask for one of these with object=... "
                "(--object)"
            )
        if wrong:
            raise DataError(
                f"{len(wrong)} images have no label among {list(names)[:10]}, the first "
                f"{wrong[0]!r}; give classes=[...], or object=... to ask for one class"
            )
        self.labels = [names.index(n) for n in self._names]
        #: labels that say that the object is not there: their images are ground without a hole
        self.absent = frozenset() if object is None else frozenset({0})
        self.kinds = self._deal(masks, boxes, seed)

    def _deal(self, masks: float, boxes: float, seed: int) -> list[str]:
        """Decide what is shown of each image; the same share of each class."""
        rng = np.random.default_rng(seed)
        kinds = ["none"] * len(self.samples)
        for label in range(len(self.classes)):
            own = [i for i, y in enumerate(self.labels) if y == label]
            have = [i for i in own if self._has(i, "masks")]
            have = [have[k] for k in rng.permutation(len(have))]
            fine = have[: round(masks * len(have))]
            rest = [i for i in own if i not in set(fine) and self._has(i, "boxes")]
            rest = [rest[k] for k in rng.permutation(len(rest))]
            for i in fine:
                kinds[i] = "masks"
            for i in rest[: round(boxes * len(rest))]:
                kinds[i] = "boxes"
        return kinds

    def _has(self, i: int, kind: str) -> bool:
        sample, name = self.samples[i], self._names[i]
        if sample.has_mask(name) and name in sample.labels:
            return True
        return kind == "boxes" and any(b.label == name for b in sample.boxes)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, i: int) -> tuple[Tensor, int, Any]:
        """Return (image, label, {"mask": (H, W)} or {"boxes": (n, 4)} or None).

        Mirrored at random where `flip` is set.
        """
        return self.example(i, mirrored=self.flip and bool(torch.rand(()) < 0.5))

    def example(self, i: int, *, mirrored: bool = False) -> tuple[Tensor, int, Any]:
        """Return one example as it is, or mirrored."""
        sample, name, kind = self.samples[i], self._names[i], self.kinds[i]
        seen = Prepared.read(sample, self.preprocess)
        image = seen.input
        where: dict[str, Tensor] | None = None
        if kind == "masks":
            where = self._placed_mask(sample.mask(name), seen)
        elif kind == "boxes":
            found = [b.coordinates for b in sample.boxes if b.label == name]
            if not found and sample.has_mask(name):
                box = mask_box(sample.mask(name))
                if box is None:  # an empty mask, which is for `annotate` to refuse or to skip
                    return image, self.labels[i], {"mask": torch.zeros(image.shape[-2:])}
                found = [box]
            boxes = seen.boxes(found)
            where = {"boxes": boxes} if len(boxes) else None
        if mirrored:
            image = image.flip(-1)
            if where and "mask" in where:
                where = {"mask": where["mask"].flip(-1)}
            elif where:
                x0, y0, x1, y1 = where["boxes"].unbind(1)
                width = image.shape[-1]
                where = {"boxes": torch.stack([width - x1, y0, width - x0, y1], 1)}
        return image, self.labels[i], where

    @staticmethod
    def _placed_mask(mask: np.ndarray, seen: Prepared) -> dict[str, Tensor] | None:
        placed = seen.mask(mask).float()
        degenerate = bool(placed.all()) or not bool(placed.any())
        # by cropping alone: nothing is wrong with the mask, and it says nothing here
        cropped = degenerate and bool(mask.any()) and not bool(mask.all())
        return None if cropped else {"mask": placed}

    def name_of(self, i: int) -> str:
        """Return an example's name in the dataset, for messages."""
        return str(self.samples[i].id)

    def counts(self) -> dict[str, int]:
        """Return how many images are shown with masks, with boxes, and with labels only."""
        return {kind: self.kinds.count(kind) for kind in KINDS}


def new_head(model: nn.Module, classes: int, *, seed: int = 0) -> nn.Module:
    """Give a classifier a fresh last linear layer of `classes` outputs, in place; return it.

    Raises:
        ModelError: the model has no linear layer.
    """
    inner = unwrap(model)
    linear = [(n, m) for n, m in inner.named_modules() if isinstance(m, nn.Linear)]
    if not linear:
        raise ModelError(
            f"{type(inner).__name__} has no linear layer that could be its classifier; give it "
            f"one with {classes} outputs yourself"
        )
    name, old = linear[-1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = nn.Linear(old.in_features, classes, bias=True).to(old.weight)
    parent, _, own = name.rpartition(".")
    setattr(inner.get_submodule(parent) if parent else inner, own, fresh)
    # what the model says of itself: the old classes' names would go to the new outputs
    for attribute in ("num_classes", "num_labels"):
        if isinstance(getattr(inner, attribute, None), int):
            setattr(inner, attribute, classes)
    config = getattr(inner, "config", None)
    if config is not None and hasattr(config, "id2label"):
        config.num_labels = classes
    return model
