"""`Annotation`: what is known of where the object is, image by image, in any mixture of forms.

A batch may hold pixel masks, boxes, scribbles or points, and images of which nothing but the
label is known. Boxes are half-open in pixels of the model's input: (x0, y0, x1, y1) covers
[x0, x1) x [y0, y1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import DataError
from ..geometry import size_of

NONE, MASK, BOX, SCRIBBLE = 0, 1, 2, 3
KINDS = ("none", "mask", "box", "scribble")


@dataclass(frozen=True, eq=False)
class Annotation:
    """Where the object is known to be, for each image of a batch; make it with `annotate`.

    Attributes:
        target: (B, H, W) in [0, 1], 1 on the object (inside the box, for boxes).
        known: (B, H, W) in [0, 1], 1 where `target` says something; all of it for masks and
            boxes, the strokes for scribbles, nothing for images without annotation.
        kind: (B,) int64: 0 none, 1 mask, 2 box, 3 scribble or points.
        weights: (B,) factors of the samples' losses, 1 unless given.
    """

    target: Tensor
    known: Tensor
    kind: Tensor
    weights: Tensor

    def __len__(self) -> int:
        return len(self.kind)

    @property
    def present(self) -> Tensor:
        """(B,) bool: the image is annotated at all."""
        return self.kind != NONE

    def only(self, *kinds: int) -> Annotation:
        """Return the annotation with images of other kinds counted as not annotated."""
        keep = torch.zeros_like(self.kind, dtype=torch.bool)
        for kind in kinds:
            keep |= self.kind == kind
        return self.where(keep)

    def where(self, keep: Tensor) -> Annotation:
        """Return the annotation with the images where `keep` (B,) is False not annotated."""
        rows = keep.to(self.target.dtype)[:, None, None]
        return replace(
            self,
            target=self.target * rows,
            known=self.known * rows,
            kind=torch.where(keep, self.kind, torch.zeros_like(self.kind)),
        )

    def at(self, size: tuple[int, int], like: Tensor | None = None) -> Annotation:
        """Return the annotation on a grid of `size`: each cell has the covered share of its area.

        Args:
            size: (h, w) of the map.
            like: a tensor whose device and dtype are taken.
        """
        target, known = self.target, self.known
        if like is not None:
            target, known = target.to(like), known.to(like)
        if size_of(target) != tuple(size):
            covered = F.adaptive_avg_pool2d(torch.stack([target * known, known], 1), size)
            known = covered[:, 1]
            target = torch.where(known > 0, covered[:, 0] / known.clamp_min(1e-12), covered[:, 0])
        return replace(
            self,
            target=target,
            known=known,
            kind=self.kind.to(target.device),
            weights=self.weights.to(target),
        )

    def to(self, device: Any) -> Annotation:
        """Return the annotation on a device."""
        return Annotation(
            *(t.to(device) for t in (self.target, self.known, self.kind, self.weights))
        )


def annotate(
    batch: int,
    size: tuple[int, int],
    *,
    masks: Tensor | Sequence[Any] | None = None,
    boxes: Sequence[Any] | None = None,
    scribbles: Tensor | Sequence[Any] | None = None,
    points: Sequence[Any] | None = None,
    weights: Tensor | Sequence[float] | None = None,
    degenerate: str = "error",
    first: int = 0,
) -> Annotation:
    """Put what is known of a batch into one `Annotation`.

    Where an image has several, the finest counts: mask, then box, then scribble, then points.

    Args:
        batch: number of images.
        size: (H, W) of the model's input in pixels.
        masks: (B, H, W) bool or numbers in [0, 1]; or a list with (H, W) or None for each image.
        boxes: for each image (4,) or (n, 4) half-open pixels (x0, y0, x1, y1), or None.
        scribbles: (B, H, W), 1 on the object, -1 on the background, 0 unknown; or a list.
        points: for each image (n, 2) points (x, y) on the object, or (n, 3) with 1 or -1 as the
            third number (object or background); or None.
        weights: (B,) factor of each image's loss.
        degenerate: masks that are empty or full, and boxes over everything, say nothing of where:
            "error" refuses them, "skip" counts the image as not annotated.
        first: the number of the batch's first image, for error messages.

    Raises:
        DataError: a count or size that does not fit, an empty or full mask, a box that is empty
            or outside the image, a number that is not finite; it names the image.
    """
    if degenerate not in ("error", "skip"):
        raise DataError(f"degenerate={degenerate!r}, expected 'error' or 'skip'")
    height, width = size
    target = torch.zeros(batch, height, width)
    known = torch.zeros(batch, height, width)
    kind = torch.zeros(batch, dtype=torch.int64)
    readers = (
        (SCRIBBLE, points, "points", _read_points),
        (SCRIBBLE, scribbles, "scribbles", _read_scribble),
        (BOX, boxes, "boxes", _read_boxes),
        (MASK, masks, "masks", _read_mask),
    )
    for number, given, name, read in readers:
        if given is None:
            continue
        if len(given) != batch:
            raise DataError(
                f"{len(given)} {name} for {batch} images; give one for each image, None where "
                "there is none"
            )
        for row in range(batch):
            if given[row] is None:
                continue
            target[row], known[row] = read(given[row], size, f"image {first + row}")
            kind[row] = number
    for row in (kind == MASK).logical_or(kind == BOX).nonzero()[:, 0].tolist():
        state = (
            "empty" if not target[row].any() else "full" if bool((target[row] == 1).all()) else ""
        )
        if state and degenerate == "error":
            raise DataError(
                f"image {first + row}: its {KINDS[int(kind[row])]} is {state}, so it says nothing "
                "of where the object is. Repair it, pass None for this image, or degenerate='skip' "
                "(--skip-bad-masks) to train on its label alone"
            )
        if state:
            target[row], known[row], kind[row] = 0, 0, NONE
    return Annotation(target, known, kind, _read_weights(weights, batch))


def as_annotation(given: Any, maps: Tensor, images: Tensor | None) -> Annotation:
    """Return `given` (an Annotation, masks (B, H, W), a list with None, or None) as Annotation."""
    batch = len(maps)
    size = size_of(images) if images is not None else size_of(maps)
    if given is None:
        return annotate(batch, size)
    if not isinstance(given, Annotation):
        first = next((g for g in given if g is not None), None)
        shape = first.shape if isinstance(first, Tensor) else None
        if images is None and shape is not None and len(shape) == 2:
            size = size_of(first)  # without the image any one size is possible
        elif shape is not None and shape == size_of(maps):
            size = size_of(maps)  # masks made for the map's own grid
        given = annotate(batch, size, masks=given)
    if len(given) != batch:
        raise DataError(f"an annotation of {len(given)} images for maps of {batch}")
    return given


def _read_mask(given: Any, size: tuple[int, int], where: str) -> tuple[Tensor, Tensor]:
    mask = torch.as_tensor(given)
    if tuple(mask.shape) != tuple(size):
        raise DataError(
            f"{where}: its mask is {tuple(mask.shape)}, the model's input {tuple(size)} (height, "
            "width); bring masks to the input by the same resizing and cropping as the image"
        )
    mask = mask.detach().float()
    if not torch.isfinite(mask).all() or mask.min() < 0 or mask.max() > 1:
        raise DataError(
            f"{where}: its mask has values from {float(mask.min()):g} to {float(mask.max()):g}, "
            "expected 0 to 1 (divide an 8-bit mask by 255, or compare a label image with its class)"
        )
    return mask.cpu(), torch.ones(size)


def _read_boxes(given: Any, size: tuple[int, int], where: str) -> tuple[Tensor, Tensor]:
    boxes = torch.as_tensor(given, dtype=torch.float64).reshape(-1, 4)
    height, width = size
    target = torch.zeros(size)
    for x0, y0, x1, y1 in boxes.tolist():
        if not all(abs(v) < float("inf") for v in (x0, y0, x1, y1)) or x1 <= x0 or y1 <= y0:
            raise DataError(
                f"{where}: box {(x0, y0, x1, y1)} is empty or not finite; expected x0 < x1 and "
                "y0 < y1, half-open pixels"
            )
        if x0 < -1 or y0 < -1 or x1 > width + 1 or y1 > height + 1:
            raise DataError(
                f"{where}: box {(x0, y0, x1, y1)} lies outside the input of width {width} and "
                f"height {height}; boxes are pixels of the model's input, (x0, y0, x1, y1)"
            )
        # a pixel belongs to the box where its centre does, as everywhere in attnviz
        columns = torch.arange(width, dtype=torch.float64) + 0.5
        rows = torch.arange(height, dtype=torch.float64) + 0.5
        inside = ((rows >= y0) & (rows < y1))[:, None] & ((columns >= x0) & (columns < x1))[None]
        target[inside] = 1
    return target, torch.ones(size)


def _read_scribble(given: Any, size: tuple[int, int], where: str) -> tuple[Tensor, Tensor]:
    strokes = torch.as_tensor(given).detach().cpu()
    if tuple(strokes.shape) != tuple(size) or not set(strokes.unique().tolist()) <= {-1, 0, 1}:
        raise DataError(
            f"{where}: a scribble is {tuple(size)} with 1 on the object, -1 on the background, 0 "
            f"unknown; got {tuple(strokes.shape)} with values {strokes.unique().tolist()[:5]}"
        )
    return (strokes == 1).float(), (strokes != 0).float()


def _read_points(given: Any, size: tuple[int, int], where: str) -> tuple[Tensor, Tensor]:
    points = torch.as_tensor(given, dtype=torch.float64)
    if points.ndim == 1:
        points = points[None]
    if points.ndim != 2 or points.shape[1] not in (2, 3) or not torch.isfinite(points).all():
        raise DataError(f"{where}: points are (n, 2) or (n, 3), got {tuple(points.shape)}")
    target, known = torch.zeros(size), torch.zeros(size)
    for x, y, *rest in points.tolist():
        if not (0 <= x < size[1] and 0 <= y < size[0]):
            raise DataError(
                f"{where}: point ({x:g}, {y:g}) lies outside the input of width {size[1]} and "
                f"height {size[0]}"
            )
        known[int(y), int(x)] = 1
        target[int(y), int(x)] = 1.0 if not rest or rest[0] > 0 else 0.0
    return target, known


def _read_weights(given: Any, batch: int) -> Tensor:
    if given is None:
        return torch.ones(batch)
    weights = torch.as_tensor(given, dtype=torch.float32)
    if tuple(weights.shape) != (batch,) or not torch.isfinite(weights).all() or (weights < 0).any():
        raise DataError(
            f"weights are {batch} numbers of at least 0, one for each image; got "
            f"{tuple(weights.shape)}: {weights.flatten()[:5].tolist()}"
        )
    return weights
