"""What takes the place of an erased region: `erase(images, masks, fill="blur")`.

A fill that is used on one class only becomes that class's label (a grey box means "boat"), so the
same fill belongs on positives and negatives; the guidance losses that erase do so.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import DataError
from ..geometry import size_of
from ..registry import Registry

#: name -> fn(images (B, C, H, W), masks (B, 1, H, W), generator) -> (B, C, H, W) in their place
FILLS = Registry("erasing fill")
Filler = Callable[[Tensor, Tensor, "torch.Generator | None"], Tensor]


def erase(
    images: Tensor,
    masks: Tensor,
    *,
    fill: str | Filler = "blur",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return images with the masked region replaced: x + m (filler - x).

    Differentiable in `masks` (and in `images`, where they stay); the filler is a constant.

    Args:
        images: (B, C, H, W), in whatever scale the model takes; not changed.
        masks: (B, H, W) or (B, 1, H, W) in [0, 1], 1 erases; bool is possible.
        fill: a name of `FILLS` or a function like those.
        generator: for "noise".

    Raises:
        DataError: shapes that do not fit.
        MethodError: an unknown fill.
    """
    if masks.ndim == 3:
        masks = masks[:, None]
    fits = images.ndim == 4 and masks.ndim == 4 and masks.shape[1] == 1
    if not fits or len(masks) != len(images) or masks.shape[-2:] != images.shape[-2:]:
        raise DataError(
            f"images (B, C, H, W) and masks (B, H, W) of one size are expected, got "
            f"{tuple(images.shape)} and {tuple(masks.shape)}; resize the masks first"
        )
    masks = masks.to(images.dtype)
    make = FILLS.get(fill).fn if isinstance(fill, str) else fill
    with torch.no_grad():
        filler = make(images.detach(), masks.detach(), generator)
    return images + masks * (filler - images)


@FILLS.register("zero")
def zero(images: Tensor, masks: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Zero, which is the data set's mean colour where images are normalised by it."""
    return torch.zeros_like(images)


@FILLS.register("mean")
def mean(images: Tensor, masks: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Each image's own mean colour outside the region (of all of it, if nothing is left)."""
    keep = 1 - masks
    area = keep.sum((-2, -1), keepdim=True)
    outside = (images * keep).sum((-2, -1), keepdim=True) / area.clamp_min(1e-6)
    whole = images.mean((-2, -1), keepdim=True)
    return torch.where(area > 0.5, outside, whole).expand_as(images)


@FILLS.register("blur")
@torch.no_grad()
def blur(images: Tensor, masks: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """The surroundings, blurred into the region: nothing of the erased object shines through.

    Normalised averaging over ever larger cells (a push-pull pyramid): each pixel takes the mean of
    the nearest cells that hold anything outside the region.
    """
    keep = 1 - masks
    seen = images * keep
    filler = mean(images, masks)
    size = size_of(images)
    cells = 2
    levels = []
    while cells <= min(size) // 4 or not levels:
        levels.append((min(cells, size[0]), min(cells, size[1])))
        cells *= 2
    for grid in levels:
        weight = F.adaptive_avg_pool2d(keep, grid)
        colour = F.adaptive_avg_pool2d(seen, grid)
        # a weighted mean of neighbours, so that empty cells lend no colour
        wide = F.interpolate(weight, size, mode="bilinear", align_corners=False)
        colour = F.interpolate(colour, size, mode="bilinear", align_corners=False)
        trust = (wide * 4).clamp(0, 1)
        # filler + trust * (colour / wide - filler), in the memory that is there
        colour.div_(wide.clamp_min_(1e-6)).sub_(filler).mul_(trust).add_(filler)
        filler = colour
    return filler


@FILLS.register("noise")
def noise(images: Tensor, masks: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Gaussian noise with each image's own mean and deviation per channel."""
    draws = torch.randn(
        images.shape,
        generator=generator,
        dtype=torch.float32,
        device=images.device if generator is None else generator.device,
    ).to(images)
    deviation = images.flatten(2).std(2)[..., None, None]
    return mean(images, masks) + draws * deviation


@FILLS.register("inpaint")
def inpaint(images: Tensor, masks: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """OpenCV's fast marching (Telea 2004), in 8 bits of each image's own range.

    The mask is cut at 0.5 and grown by 3 pixels, since the edge of an object carries its colour.
    """
    import cv2
    import numpy as np

    filled = []
    kernel = np.ones((7, 7), np.uint8)
    for image, mask in zip(images, masks, strict=True):
        low = image.amin((-2, -1), keepdim=True)
        span = (image.amax((-2, -1), keepdim=True) - low).clamp_min(1e-6)
        byte = ((image - low) / span * 255).round().to(torch.uint8).cpu().numpy()
        hole = cv2.dilate((mask[0].cpu().numpy() >= 0.5).astype(np.uint8), kernel)
        if hole.all():  # nothing is left to continue from
            filled.append(mean(image[None], mask[None])[0])
            continue
        planes = [cv2.inpaint(np.ascontiguousarray(p), hole, 3, cv2.INPAINT_TELEA) for p in byte]
        filled.append(torch.from_numpy(np.stack(planes)).to(image) / 255 * span + low)
    return torch.stack(filled)
