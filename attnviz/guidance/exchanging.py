"""Objects exchanged between annotated images: the same objects in front of the other's context.

Where two things always come together, no image tells a classifier which of them it is asked for.
Annotated images can be cut apart and put together anew: `exchange` puts the object of one image
onto the ground of an image of another class, whose own object is erased, and the label goes with
the object. It needs no group label and no new photograph. `seam_control` pastes each object back
on its own emptied ground: all the traces of cutting, and nothing exchanged.

Source: cut-out and pasted training images (Dwibedi et al. 2017, arXiv:1708.01642); backgrounds
exchanged between classes (Xiao et al. 2020, arXiv:2006.09994; there to test, here to train).
Differs from both: the ground is another training image's with its object erased, so grounds need
no collection of their own and every one of them was seen with a label that now is wrong.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..erasing.fills import Filler, erase
from ..errors import DataError

PLACES = ("same", "anywhere")


@dataclass(frozen=True, eq=False)
class Exchanged:
    """Images put together of others, and what of.

    Attributes:
        images: (K, C, H, W), in the scale of the images given.
        masks: (K, H, W) float in [0, 1], the pasted object.
        labels: (K,) int64, the object's.
        donors: (K,) int64, rows of the images that the objects are from.
        hosts: (K,) int64, rows of the images that the grounds are from.
    """

    images: Tensor
    masks: Tensor
    labels: Tensor
    donors: Tensor
    hosts: Tensor

    def __len__(self) -> int:
        return len(self.labels)


def exchange(
    images: Tensor,
    masks: Tensor,
    labels: Tensor,
    *,
    count: int | None = None,
    place: str = "same",
    scale: tuple[float, float] = (1.0, 1.0),
    flip: bool = False,
    grow: int = 7,
    edge: int = 1,
    fill: str | Filler = "blur",
    grounds: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Exchanged:
    """Put objects onto the emptied grounds of images of other classes.

        mixed = guidance.exchange(x[known], masks[known], y[known], count=12, generator=g)
        loss = loss + F.cross_entropy(model(mixed.images), mixed.labels)

    Objects are drawn evenly over the classes, and for each the ground evenly over the others, so
    that a rare class is not rare among what is made.

    Args:
        images: annotated images (N, C, H, W), preprocessed or not; not changed.
        masks: (N, H, W) bool or in [0, 1], 1 on the object (a box, filled, will do: then the box
            is what is moved).
        labels: (N,) class indices, of two classes or more.
        count: images to make; None makes as many as are given.
        place: "same" leaves an object where it stood, and its pixels as they are; "anywhere"
            draws a place at which the whole object is in the picture, and a size.
        scale: smallest and largest factor of the object's side, for "anywhere".
        flip: mirror object and ground, each with an even chance.
        grow: pixels by which the ground's own mask is grown before it is erased: a rim of the
            object, or its shadow, would still tell of it.
        edge: half-width in pixels of the pasted object's soft edge; 0 cuts along the mask.
        fill: what the erased object is replaced with, see `erasing.FILLS`.
        grounds: (N, C, H, W) the emptied grounds, where they are at hand (`emptied`); None makes
            those that are needed.
        generator: of all draws; None takes torch's global random state.

    Returns:
        `Exchanged`.

    Raises:
        DataError: images of one class only, shapes that do not fit, an empty mask, a setting out
            of its range.
    """
    masks = _checked(images, masks, labels, grounds, place, scale, grow, edge)
    classes = labels.unique().tolist()
    if len(classes) < 2:
        raise DataError(
            f"objects are exchanged between classes, and all {len(labels)} annotated images are "
            f"of class {classes[0]}; annotate some images of another class too"
        )
    count = len(labels) if count is None else count
    if count < 1:
        raise DataError(f"count is a number of images of at least 1, got {count}")
    rows = {c: (labels == c).nonzero()[:, 0] for c in classes}
    donors, hosts = [], []
    for _ in range(count):
        own = classes[_draw(len(classes), generator)]
        others = [c for c in classes if c != own]
        other = others[_draw(len(others), generator)]
        donors.append(rows[own][_draw(len(rows[own]), generator)])
        hosts.append(rows[other][_draw(len(rows[other]), generator)])
    return _pasted(
        images, masks, labels, torch.stack(donors), torch.stack(hosts),
        place, scale, flip, grow, edge, fill, grounds, generator,
    )  # fmt: skip


def seam_control(
    images: Tensor,
    masks: Tensor,
    labels: Tensor,
    *,
    place: str = "same",
    scale: tuple[float, float] = (1.0, 1.0),
    flip: bool = False,
    grow: int = 7,
    edge: int = 1,
    fill: str | Filler = "blur",
    grounds: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Exchanged:
    """Paste every object back on its own emptied ground.

    The images bear all the traces of `exchange` in their old context. A training that gains as
    much from these learned the seam, not the object; a model that answers them worse than the
    images they are made of minds the seam.

    Args:
        images, masks, labels, place, scale, flip, grow, edge, fill, grounds, generator: as in
            `exchange`; one class will do.

    Returns:
        `Exchanged`, one image for each given, in their order.

    Raises:
        DataError: as `exchange`.
    """
    masks = _checked(images, masks, labels, grounds, place, scale, grow, edge)
    rows = torch.arange(len(labels), device=labels.device)
    return _pasted(
        images, masks, labels, rows, rows,
        place, scale, flip, grow, edge, fill, grounds, generator,
    )  # fmt: skip


def emptied(
    images: Tensor,
    masks: Tensor,
    *,
    grow: int = 7,
    fill: str | Filler = "blur",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return images (N, C, H, W) with what is under the masks, grown by pixels, erased.

    Args:
        images, masks, grow, fill: as in `exchange`.
        generator: for fills that draw.
    """
    grown = F.max_pool2d(masks[:, None].to(images.dtype), 2 * grow + 1, 1, grow)
    return erase(images, grown, fill=fill, generator=generator)


def _pasted(
    images: Tensor, masks: Tensor, labels: Tensor, donors: Tensor, hosts: Tensor, place: str,
    scale: tuple[float, float], flip: bool, grow: int, edge: int, fill: str | Filler,
    grounds: Tensor | None, generator: torch.Generator | None,
) -> Exchanged:  # fmt: skip
    if grounds is None:
        used, back = hosts.unique(return_inverse=True)
        made = emptied(images[used], masks[used], grow=grow, fill=fill, generator=generator)
        ground = made[back]
    else:
        ground = grounds[hosts]
    thing, where = images[donors], masks[donors][:, None]
    if flip:
        thing, where = _mirrored((thing, where), generator)
        (ground,) = _mirrored((ground,), generator)
    if place == "anywhere":
        thing, where = _moved(thing, where, scale, generator)
    # beyond the mask the edge takes the donor's own ground, a pixel or two of it
    opacity = F.avg_pool2d(where, 2 * edge + 1, 1, edge, count_include_pad=False)
    pasted = ground + opacity * (thing - ground)
    # where it is opaque, the donor's own numbers and not a rounding of them
    pasted = torch.where(opacity >= 1, thing, pasted)
    return Exchanged(pasted, where[:, 0], labels[donors].long(), donors, hosts)


def _mirrored(parts: tuple[Tensor, ...], generator: torch.Generator | None) -> tuple[Tensor, ...]:
    turned = torch.tensor([_draw(2, generator) for _ in parts[0]], device=parts[0].device) > 0
    return tuple(torch.where(turned[:, None, None, None], p.flip(-1), p) for p in parts)


def _moved(
    thing: Tensor, where: Tensor, scale: tuple[float, float], generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Draw a size and a place for each object, all of it inside the picture."""
    height, width = where.shape[-2:]
    low, high = scale
    thetas = []
    for mask in where[:, 0] > 0:
        ys, xs = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
        y0, y1, x0, x1 = int(ys[0]), int(ys[-1]) + 1, int(xs[0]), int(xs[-1]) + 1
        factor = low * (high / low) ** _uniform(generator)
        factor = min(factor, height / (y1 - y0), width / (x1 - x0))
        row = []
        for a, b, size in ((x0, x1, width), (y0, y1, height)):
            reach = (b - a) * factor
            middle = reach / 2 + (size - reach) * _uniform(generator)
            # output coordinates -> input coordinates, both from -1 to 1 over the picture
            row.append(((a + b) / size - 1) - (2 * middle / size - 1) / factor)
        thetas.append([[1 / factor, 0.0, row[0]], [0.0, 1 / factor, row[1]]])
    grid = F.affine_grid(
        torch.tensor(thetas, dtype=thing.dtype, device=thing.device),
        list(thing.shape), align_corners=False,
    )  # fmt: skip
    moved = F.grid_sample(thing, grid, padding_mode="border", align_corners=False)
    return moved, F.grid_sample(where, grid, padding_mode="zeros", align_corners=False)


def _draw(upto: int, generator: torch.Generator | None) -> int:
    device = "cpu" if generator is None else generator.device
    return int(torch.randint(upto, (), generator=generator, device=device))


def _uniform(generator: torch.Generator | None) -> float:
    device = "cpu" if generator is None else generator.device
    return float(torch.rand((), generator=generator, dtype=torch.float64, device=device))


def _checked(
    images: Tensor, masks: Tensor, labels: Tensor, grounds: Tensor | None, place: str,
    scale: tuple[float, float], grow: int, edge: int,
) -> Tensor:  # fmt: skip
    """Return the masks in the images' type, or say what is wrong with the arguments."""
    fits = images.ndim == 4 and images.is_floating_point() and len(images) > 0
    if (
        not fits
        or masks.shape != (len(images), *images.shape[-2:])
        or labels.shape != (len(images),)
    ):
        raise DataError(
            "images (N, C, H, W) float, masks (N, H, W) and labels (N,) of N > 0 annotated images "
            f"are expected, got {tuple(images.shape)} {images.dtype}, {tuple(masks.shape)} and "
            f"{tuple(labels.shape)}"
        )
    if grounds is not None and grounds.shape != images.shape:
        raise DataError(
            f"grounds are the images emptied, {tuple(images.shape)}, got {tuple(grounds.shape)}"
        )
    if place not in PLACES:
        raise DataError(f"place {place!r} is not one of {', '.join(map(repr, PLACES))}")
    if not 0 < scale[0] <= scale[1]:
        raise DataError(f"scale {scale}: expected two factors above 0, smallest first")
    if grow < 0 or edge < 0:
        raise DataError(f"grow {grow} and edge {edge} are numbers of pixels, 0 or more")
    masks = masks.to(images.dtype)
    empty = (masks.flatten(1).amax(1) <= 0).nonzero()[:, 0].tolist()
    if empty:
        raise DataError(
            f"{len(empty)} of {len(masks)} masks are empty (the first in row {empty[0]}): there is "
            "no object to exchange; leave these images out"
        )
    return masks
