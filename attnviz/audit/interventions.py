"""Counterfactual images: the object taken away, the context taken away or exchanged, and the same
operation where it should not matter.

All work on the model's input. A control lies on neither object nor context; what the model loses
there is the price of the operation itself. It is as large as the region it stands for where the
image has that much room, smaller (down to a quarter) where it has not, and each variant says how
large it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..erasing.fills import FILLS
from ..errors import DataError
from .pictures import AuditPicture

#: how a region is emptied
DEFAULT_FILLS = ("inpaint", "blur", "mean")
#: longest side on which inpainting works; what it invents is smooth, so more pixels show no more
_INPAINT_SIDE = 64
#: a control smaller than this share of its region tells nothing about it
_LEAST_CONTROL = 0.25


@dataclass(frozen=True, eq=False)
class Variant:
    """A changed image.

    Attributes:
        row: which picture of the batch.
        name: of the operation.
        input: (3, H, W).
        room: of a control, its area over that of the region it stands for; 1 otherwise.
    """

    row: int
    name: str
    input: Tensor
    room: float = 1.0


@dataclass(frozen=True, eq=False)
class Donors:
    """Images without the object that lend their context.

    Attributes:
        with_context, without_context: (D, 3, H, W) inputs, in pairs.
        sources: of each pair, both images' clusters.
        occupied: (D, H, W) bool, where other objects are known to be in either; None where in none.
        natural: how many are as they are; the rest are the same once more, without those objects.
    """

    with_context: Tensor
    without_context: Tensor
    sources: tuple[tuple[str, str], ...]
    occupied: Tensor | None = None
    natural: int = 0

    def __len__(self) -> int:
        return len(self.sources)


def grown(mask: Tensor) -> Tensor:
    """Return a mask grown by 2 % of the image (at least a pixel): edges carry the object."""
    radius = max(1, round(0.02 * min(mask.shape)))
    kernel = np.ones((2 * radius + 1,) * 2, np.uint8)
    return torch.from_numpy(cv2.dilate(mask.numpy().astype(np.uint8), kernel) > 0)


def control_region(allowed: Tensor, area: int, wider: Tensor | None = None) -> Tensor | None:
    """Return a compact region of `area` pixels inside `allowed`, or of all of it if smaller.

    It grows around the point that is farthest from everything that matters.

    Args:
        allowed: (H, W) bool, neither object nor context, and off their edges.
        area: pixels wanted.
        wider: the same up to their very edges, taken where `allowed` has too little room.

    Returns:
        (H, W) bool; None where less than a quarter of the area is to be had.
    """
    space = int(allowed.sum())
    if wider is not None and space < area:
        allowed, space = wider, int(wider.sum())
    if space < _LEAST_CONTROL * area or not area:
        return None
    ground = np.pad(allowed.numpy().astype(np.uint8), 1)
    depth = cv2.distanceTransform(ground, cv2.DIST_L2, 3)[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    rows, columns = np.indices(depth.shape)
    distance = np.hypot(rows - y, columns - x)
    distance[~allowed.numpy()] = np.inf
    nearest = np.argpartition(distance.ravel(), min(area, space) - 1)[: min(area, space)]
    region = np.zeros(depth.size, bool)
    region[nearest] = True
    return torch.from_numpy(region.reshape(depth.shape))


def emptied(picture: AuditPicture) -> Tensor:
    """Return a picture's input without what is known to be in it: its object, and other things."""
    parts = [m for m in (picture.object_mask, picture.occupied) if m is not None and m.any()]
    if not parts:
        return picture.input
    mask = torch.stack([grown(part) for part in parts]).any(0)
    filled = _inpaint(picture.input[None], mask[None, None].float())[0]
    return torch.where(mask, filled, picture.input)


def _inpaint(images: Tensor, masks: Tensor, generator: object = None) -> Tensor:
    """Telea's inpainting on a small copy, enlarged into the hole."""
    side = max(images.shape[-2:])
    if images.shape[1] != 3:
        return FILLS.get("inpaint").fn(images, masks, generator)
    factor = max(1, -(-side // _INPAINT_SIDE))
    size = (-(-images.shape[-2] // factor), -(-images.shape[-1] // factor))
    keep = 1 - masks
    weight = F.adaptive_avg_pool2d(keep, size)
    small = F.adaptive_avg_pool2d(images * keep, size) / weight.clamp_min(1e-6)
    low = images.amin((-2, -1), keepdim=True)
    span = (images.amax((-2, -1), keepdim=True) - low).clamp_min(1e-6)
    bytes_ = ((small - low) / span * 255).round().clamp(0, 255).to(torch.uint8)
    bytes_ = bytes_.permute(0, 2, 3, 1).cpu().numpy()
    holes = (weight[:, 0] < 0.5).cpu().numpy().astype(np.uint8)
    filled = np.stack(
        [
            picture if not hole.any() or hole.all() else cv2.inpaint(
                np.ascontiguousarray(picture), hole, 3, cv2.INPAINT_TELEA
            )
            for picture, hole in zip(bytes_, holes, strict=True)
        ]
    )  # fmt: skip
    found = torch.from_numpy(filled).permute(0, 3, 1, 2).to(images) / 255 * span + low
    found = F.interpolate(found, images.shape[-2:], mode="bilinear", align_corners=False)
    whole = torch.from_numpy(holes.all((1, 2))).to(images.device)[:, None, None, None]
    return torch.where(whole, FILLS.get("mean").fn(images, masks), found)


def check_fills(fills: Sequence[str]) -> tuple[str, ...]:
    """Return the fills; an unknown one raises with the nearest names."""
    if not fills:
        raise DataError(f"no fill given; at least one of {', '.join(FILLS.names())}")
    return tuple(FILLS.get(name).name for name in fills)


def variants(
    pictures: Sequence[AuditPicture],
    *,
    fills: Sequence[str],
    donors: Donors | None,
    seed: int = 0,
) -> Iterator[Variant]:
    """Yield the counterfactual images of a batch, a name each:

    * `object:FILL`, `context:FILL`: the region emptied;
    * `object-control:FILL`, `context-control:FILL`: the same on a region of neither, as large
      where there is room;
    * `context:swap`, `context-control:swap`: the region's pixels taken from an image without
      context;
    * `paste:with`, `paste:without`: the object on a donor with and without the context, at a
      place that is free of other objects in both.

    Where the context is all that is not the object, it is exchanged by the transplants alone:
    nothing would be left to fill it from.
    """
    erasures: list[tuple[int, str, Tensor]] = []
    hidden = []
    rooms: dict[tuple[int, str], float] = {}
    for row, picture in enumerate(pictures):
        for name, mask in _regions(picture):
            erasures.append((row, name, mask))
            if name.endswith("-control"):
                rooms[row, name] = float(mask.sum()) / float(erasures[-2][2].sum())
            # what fills the context must not be painted with the object's colours
            inside = picture.object_mask
            if name.startswith("context") and inside is not None and bool(inside.any()):
                mask = mask | grown(inside)
            hidden.append(mask)
    if erasures:
        images = torch.stack([pictures[row].input for row, _, _ in erasures])
        unseen = torch.stack(hidden)[:, None].float()
        masks = torch.stack([mask for _, _, mask in erasures])[:, None]
        for fill in fills:
            generator = torch.Generator().manual_seed(seed)
            make = _inpaint if fill == "inpaint" else FILLS.get(fill).fn
            made = torch.where(masks, make(images, unseen, generator), images)
            for (row, name, _), changed in zip(erasures, made, strict=True):
                yield Variant(row, f"{name}:{fill}", changed, rooms.get((row, name), 1.0))
    if donors is None:
        return
    for row, name, mask in erasures:
        if name.startswith("context"):
            lent = donors.without_context[donor_of(pictures[row], donors, seed)]
            changed = torch.where(mask, lent, pictures[row].input)
            yield Variant(row, f"{name}:swap", changed, rooms.get((row, name), 1.0))
    for row, picture in enumerate(pictures):
        if picture.object_mask is not None and picture.object_mask.any():
            number = donor_of(picture, donors, seed)
            for name, lent in (("with", donors.with_context), ("without", donors.without_context)):
                changed = torch.where(picture.object_mask, picture.input, lent[number])
                yield Variant(row, f"paste:{name}", changed)


def _regions(picture: AuditPicture) -> list[tuple[str, Tensor]]:
    """Return what is emptied in a picture, and the controls."""
    inside, around = picture.object_mask, picture.context_mask
    empty = torch.zeros(picture.input.shape[-2:], dtype=torch.bool)
    inside = empty if inside is None else inside
    around = empty if around is None or picture.rest else around
    edge = grown(inside) if inside.any() else inside
    found = []
    allowed = ~(edge | (grown(around) if around.any() else around))
    wider = ~(edge | around)
    if inside.any():
        found.append(("object", edge))
        # a reader of the context must not lose it to the object's control
        control = control_region(allowed, int(edge.sum()), wider)
        if control is not None:
            found.append(("object-control", control))
    if around.any():
        found.append(("context", around))
        control = control_region(allowed, int(around.sum()), wider)
        if control is not None:
            found.append(("context-control", control))
    return found


def donor_of(picture: AuditPicture, donors: Donors, seed: int) -> int:
    """Return the pair of donors that a picture is given: by its number, never its own source.

    One with nothing else where the object goes, or one that other things are taken out of.
    """
    count = donors.natural or len(donors)
    start = int(np.random.default_rng((seed, picture.index)).integers(count))
    own = {picture.source, picture.background}
    turns = [(start + step) % count for step in range(count)]
    foreign = [number for number in turns if not own & set(donors.sources[number])] or [start]
    free = (number for number in foreign if _free(picture, donors, number))
    return next(free, foreign[0] + len(donors) - count)


def _free(picture: AuditPicture, donors: Donors, number: int) -> bool:
    """Return whether nothing else is known to be where the object would go."""
    if donors.occupied is None or picture.object_mask is None:
        return True
    return not bool((donors.occupied[number] & picture.object_mask).any())
