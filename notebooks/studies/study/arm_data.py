"""One part of a fold as features of the frozen prefix, kept on disk between arms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from attnviz.erasing import erase
from attnviz.guidance.checkpoints import write_whole
from study import arm_list as _arm_list
from study.frozen import divide, features

NONE, MASK, BOX = 0, 1, 2


@dataclass(frozen=True, eq=False)
class Part:
    """Images of a part, as features, with what is known of them.

    Attributes:
        features: (N, C, h, w) of the images.
        without_mask, without_box: the same of the images with the object, or its box, erased in
            pixels; empty but for training.
        masks: (N, H, W) bool.
        labels, groups: (N,).
    """

    features: Tensor
    without_mask: Tensor
    without_box: Tensor
    masks: Tensor
    labels: Tensor
    groups: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def deal(self, masks: float, boxes: float, draws: torch.Generator) -> Tensor:
        """Return what is known of each image, (N,): nothing, its mask, or its box."""
        kinds = torch.zeros(len(self), dtype=torch.int64)
        for label in self.labels.unique().tolist():
            own = (self.labels == label).nonzero()[:, 0]
            own = own[torch.randperm(len(own), generator=draws)]
            fine = round(masks * len(own))
            kinds[own[:fine]] = MASK
            kinds[own[fine : fine + round(boxes * (len(own) - fine))]] = BOX
        return kinds

    def batch(
        self, rows: Tensor, kinds: Tensor, mirrored: bool
    ) -> tuple[Tensor, Tensor, list[Tensor | None]]:
        """Return features, labels, and the annotation on the features' grid."""
        x = self.features[rows]
        known: list[Tensor | None] = []
        for row in rows.tolist():
            mask = self.masks[row]
            if kinds[row] == BOX:
                mask = box_of(mask)
            grid = F.adaptive_avg_pool2d(mask[None, None].float(), x.shape[-2:])[0, 0]
            known.append(None if kinds[row] == NONE else grid.flip(-1) if mirrored else grid)
        return (x.flip(-1) if mirrored else x), self.labels[rows], known

    def context(self, rows: Tensor, kinds: Tensor, mirrored: bool) -> Tensor:
        """Return the features of the annotated images of a batch with the object erased."""
        found = [
            (self.without_mask if kinds[row] == MASK else self.without_box)[row]
            for row in rows.tolist()
            if kinds[row] != NONE
        ]
        if not found:
            return self.features[:0]
        x = torch.stack(found)
        return x.flip(-1) if mirrored else x


def box_of(mask: Tensor) -> Tensor:
    """Return the box around a mask (H, W) as a mask."""
    box = torch.zeros_like(mask)
    rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
    if len(rows):
        box[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
    return box


@lru_cache(maxsize=8)
def _loaded(path: Path) -> Part:
    return Part(**load_file(path))


def load_part(
    data: str | Path, folder: Path, net: Any, fold: int, seed: int, folds: int, name: str,
    kind: str = "confounded",
) -> Part:  # fmt: skip
    """Return a part of a fold, composed and run through the prefix when first asked for."""
    if kind == "boats":
        common = (data, folder, net, fold, seed, folds, name)
        return _boats_of(load_part(*common, "confounded"), load_part(*common, "swapped"))
    path = folder / "features" / f"{name}-{kind}-{fold}of{folds}-{seed}.safetensors"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        _compose(data, folder, net, fold, seed, folds, kind)
    return _loaded(path)


def _boats_of(first: Part, second: Part) -> Part:
    """Return the boats of the second part with all else of the first."""
    kept, taken = first.labels == 0, second.labels == 1
    names = ("features", "masks", "labels", "groups")
    joined = {n: torch.cat([getattr(first, n)[kept], getattr(second, n)[taken]]) for n in names}
    return Part(without_mask=torch.zeros(0), without_box=torch.zeros(0), **joined)


@lru_cache(maxsize=1)
def _material(data: str | Path) -> Any:
    from attnviz.data import open_dataset
    from study.material import harvest

    return harvest(open_dataset(data))


def _compose(
    data: str | Path, folder: Path, net: Any, fold: int, seed: int, folds: int, kind: str
) -> None:
    from study.compositing import Protocol, composite

    protocol = Protocol(
        size=_arm_list.SIZE, train=320, validation=160, test=320, controls=0,
        co_occurrence=1.0 if kind == "confounded" else 0.75,
    )  # fmt: skip
    made = composite(_material(data), fold=fold, folds=folds, seed=seed, protocol=protocol)
    prefix, _ = divide(net, _arm_list.FROZEN)
    # validation and test are the same images for every arm, and are made with the first one
    names = ("train", "validation", "test") if kind == "confounded" else ("train",)
    for name in names:
        part = _part(getattr(made, name), prefix, erased=name == "train" and kind == "confounded")
        path = folder / "features" / f"{name}-{kind}-{fold}of{folds}-{seed}.safetensors"
        tensors = {k: v.contiguous() for k, v in vars(part).items()}
        write_whole(path, _saver(tensors))


def _saver(tensors: dict[str, Tensor]) -> Callable[[Path], None]:
    return lambda path: save_file(tensors, path)


def _part(images: Any, prefix: Any, *, erased: bool) -> Part:
    x, labels = images.tensors()
    x = 2 * x - 1  # the embedded model's own scaling
    masks = torch.from_numpy(np.ascontiguousarray(images.object_mask))
    part = Part(
        features(prefix, x), torch.zeros(0), torch.zeros(0), masks, labels,
        torch.from_numpy(images.group.astype(np.int64)),
    )  # fmt: skip
    if not erased:
        return part
    # a rim of the object would tell of it: masks are grown by the paste's soft edge
    grown = F.max_pool2d(masks[:, None].float(), 7, 1, 3)[:, 0]
    boxes = torch.stack([box_of(m) for m in masks]).float()
    return replace(
        part,
        without_mask=features(prefix, erase(x, grown, fill="blur")),
        without_box=features(prefix, erase(x, boxes, fill="blur")),
    )
