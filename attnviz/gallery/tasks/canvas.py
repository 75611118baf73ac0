"""Handwritten digits on a canvas: turned, moved, scaled, and with clutter around them.

The digits are the 1,797 of scikit-learn's `load_digits` (8 x 8, 16 grey levels): the test part of
"Optical Recognition of Handwritten Digits" by E. Alpaydin and C. Kaynak, UCI Machine Learning
Repository 1998, doi:10.24432/C50P49, CC BY 4.0. They come with the package. The last 400, by other
writers than most of the first, are kept for measuring.
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Generator, Tensor

from ..modules.files import find
from ..modules.spatial_transformer import make_theta

KEPT_FOR_TEST = 400


@cache
def all_digits() -> tuple[Tensor, Tensor]:
    """Images (1797, 1, 8, 8) in [0, 1] and labels (1797,), in scikit-learn's order."""
    stored = load_file(find("digits.safetensors"))
    return stored["images"][:, None].float() / 16, stored["labels"].long()


def draw_digits(count: int, generator: Generator, training: bool) -> tuple[Tensor, Tensor]:
    """`count` digits (count, 1, 8, 8) with labels, from one side of the split."""
    images, labels = all_digits()
    edge = len(images) - KEPT_FOR_TEST
    low, high = (0, edge) if training else (edge, len(images))
    index = torch.randint(low, high, (count,), generator=generator)
    return images[index], labels[index]


def uniform(count: int, low: float, high: float, generator: Generator) -> Tensor:
    """`count` numbers, uniform in [low, high)."""
    return low + (high - low) * torch.rand(count, generator=generator)


def invert(theta: Tensor) -> Tensor:
    """The affine map (B, 2, 3) that undoes theta."""
    matrix = torch.linalg.inv(theta[:, :, :2])
    return torch.cat((matrix, -matrix @ theta[:, :, 2:]), 2)


def place(digits: Tensor, theta: Tensor, side: int) -> Tensor:
    """Draw each digit (B, 1, h, w) into the window theta of an empty canvas (B, 1, side, side).

    A spatial transformer that answers with this theta sees the digit upright and filling its frame.
    """
    # a rim of one empty pixel softens strokes that end at the scan's edge
    big = F.interpolate(F.pad(digits, (1, 1, 1, 1)), scale_factor=4, mode="bilinear")
    shape = [len(digits), 1, side, side]
    grid = F.affine_grid(invert(theta), shape, align_corners=False)
    return F.grid_sample(big, grid * (8 / 10), align_corners=False)


def cluttered(
    count: int,
    generator: Generator,
    training: bool,
    *,
    side: int,
    size: int,
    pieces: int,
    piece: int = 7,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Upright digits at random places, among pieces of other digits.

    Args:
        count: images.
        generator: where the draws come from.
        training: which side of the split.
        side: canvas side in pixels.
        size: digit side in pixels.
        pieces: distractors per image.
        piece: their side in pixels.

    Returns:
        Images (count, 1, side, side) in [0, 1], labels, boxes (count, 4) as x0, y0, x1, y1 in
        pixels, and centres (count, 2) as normalised (x, y).
    """
    digits, labels = draw_digits(count, generator, training)
    reach = 1 - size / side
    centre = torch.stack([uniform(count, -reach, reach, generator) for _ in range(2)], 1)
    scale = torch.full((count, 2), size / side)
    window = make_theta(torch.zeros(count), translation=centre, scale=scale)
    canvas = place(digits, window, side)
    corner = (centre + 1) / 2 * side - size / 2
    boxes = torch.cat((corner, corner + size), 1)
    # clutter stays off the digit's box, so that the digit itself is whole
    edge = (torch.arange(side) + 0.5)[None]
    rows = (edge >= boxes[:, 1:2]) & (edge < boxes[:, 3:4])
    columns = (edge >= boxes[:, 0:1]) & (edge < boxes[:, 2:3])
    free = ~(rows[:, None, :, None] & columns[:, None, None, :])
    for _ in range(pieces):
        others, _ = draw_digits(count, generator, training)
        spot = torch.stack([uniform(count, -1, 1, generator) for _ in range(2)], 1)
        window = make_theta(
            torch.zeros(count), translation=spot, scale=torch.full((count, 2), piece / side)
        )
        # inside the piece, look at a part of the other digit at the digit's own scale
        grid = F.affine_grid(invert(window), list(canvas.shape), align_corners=False)
        part = torch.stack([uniform(count, -0.4, 0.4, generator) for _ in range(2)], 1)
        look = grid * (piece / size) + part[:, None, None]
        layer = F.grid_sample(others, look, align_corners=False)
        layer = layer * (grid.abs() <= 1).all(-1)[:, None]
        canvas = torch.maximum(canvas, layer * free)
    return canvas.clamp(0, 1), labels, boxes, centre


def inside(points: Tensor, boxes: Tensor, side: int) -> Tensor:
    """Which points (B, T, 2), normalised (x, y), lie in their image's box (B, 4) in pixels."""
    pixels = (points + 1) / 2 * side
    low, high = boxes[:, None, :2], boxes[:, None, 2:]
    return ((pixels >= low) & (pixels < high)).all(-1)


def box_mask(boxes: Tensor, side: int, cells: int) -> Tensor:
    """Share (B, cells, cells) of each grid cell that its image's box covers."""
    edge = torch.arange(cells + 1) * side / cells
    low, high = edge[:-1], edge[1:]

    def cover(start: Tensor, stop: Tensor) -> Tensor:
        overlap = stop[:, None].minimum(high) - start[:, None].maximum(low)
        return overlap.clamp_min(0) / (side / cells)

    return cover(boxes[:, 1], boxes[:, 3])[:, :, None] * cover(boxes[:, 0], boxes[:, 2])[:, None]
