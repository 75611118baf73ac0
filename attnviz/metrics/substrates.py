"""What is removed at once, pixels or patches, and in which order: exact counts, ties or not."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import MetricError
from ..geometry import size_of
from ._random import image_keys, permutation

SUBSTRATES = ("pixel", "patch")


def patch_side(size: tuple[int, int], patch: int | None) -> int:
    """Return the side of a patch in pixels: as given, or a fourteenth of the shorter side."""
    if patch is None:
        return max(1, round(min(size) / 14))
    if patch < 1:
        raise MetricError(f"patch={patch}, expected at least 1 pixel")
    return patch


def unit_name(size: tuple[int, int], substrate: str, patch: int | None) -> str:
    """Return how a protocol calls what is removed at once."""
    return substrate if substrate == "pixel" else f"{patch_side(size, patch)} px {substrate}"


def cells(size: tuple[int, int], substrate: str, patch: int | None, device: torch.device) -> Tensor:
    """Return the cell number of every pixel, (H, W) int64, 0 to the number of cells - 1.

    Args:
        size: (H, W) of the image.
        substrate: "pixel" (every pixel is a cell) or "patch" (squares of `patch` pixels; those at
            the right and lower edge are smaller where the size is no multiple).
        patch: side of a patch in pixels; None is a fourteenth of the shorter side.
        device: where the result lies.
    """
    height, width = size
    if substrate not in SUBSTRATES:
        raise MetricError(f"substrate={substrate!r}, expected one of {', '.join(SUBSTRATES)}")
    if substrate == "pixel":
        return torch.arange(height * width, device=device).view(height, width)
    patch = patch_side(size, patch)
    rows = torch.arange(height, device=device) // patch
    columns = torch.arange(width, device=device) // patch
    return rows[:, None] * (-(-width // patch)) + columns


def cell_values(maps: Tensor, label: Tensor, how: str = "mean") -> Tensor:
    """Return the mean (or sum) of a map over each cell.

    Args:
        maps: (B, H, W).
        label: (H, W) cell numbers, all from 0 up to the greatest in use.
        how: "mean" or "sum".

    Returns:
        (B, cells).
    """
    count = int(label.max()) + 1
    flat = maps.flatten(1)
    if count == flat.shape[1]:
        return flat[:, label.flatten().argsort()]
    index = label.flatten()
    total = flat.new_zeros(len(flat), count)
    for into, row in zip(total, flat, strict=True):
        into.index_add_(0, index, row)
    if how == "sum":
        return total
    return total / torch.bincount(index, minlength=count).to(total)


def ranks(values: Tensor, x: Tensor, seed: int) -> Tensor:
    """Return the rank of each cell, 0 for the most relevant; every rank occurs exactly once.

    Cells of equal value are ranked at random, the same way for one image wherever it stands: a map
    that is mostly zeros is removed to the exact count, and a constant one is a random ranking
    rather than the top rows of the image.

    Args:
        values: (B, n) relevance of each cell.
        x: (B, C, H, W) the images, which key the random order.
        seed: of the random order.

    Returns:
        (B, n) int64.
    """
    n = values.shape[1]
    found = torch.empty_like(values, dtype=torch.long)
    for rank, row, key in zip(found, values, image_keys(x), strict=True):
        shuffled = permutation(n, seed, key, "ties", row.device)
        order = shuffled[torch.argsort(row[shuffled], descending=True, stable=True)]
        rank[order] = torch.arange(n, device=row.device)
    return found


def pixel_ranks(
    maps: Tensor, x: Tensor, *, substrate: str, patch: int | None = None, seed: int
) -> tuple[Tensor, int]:
    """Return the rank of each pixel's cell, (B, H, W) int64, and the number of cells.

    Args:
        maps: (B, H, W) at the images' size.
        x: (B, C, H, W) the images.
        substrate: "pixel" or "patch".
        patch: side of a patch in pixels, see `cells`.
        seed: of the order among ties.
    """
    label = cells(size_of(maps), substrate, patch, maps.device)
    rank = ranks(cell_values(maps, label), x, seed)
    return rank[:, label.flatten()].view(maps.shape), rank.shape[1]


def schedule(n: int, steps: int) -> list[int]:
    """Return how many of n cells are removed at each step: 0 to n, symmetric, strictly rising.

    Symmetric means that n minus each count is a count too, so that one set of images serves
    insertion and least-relevant-first deletion alike. With fewer cells than steps, one a step.
    """
    if steps < 1:
        raise MetricError(f"steps={steps}, expected at least 1")
    steps = min(steps, n)
    half = [(2 * n * i + steps) // (2 * steps) for i in range(steps // 2 + 1)]
    return half + [n - half[steps - i] for i in range(steps // 2 + 1, steps + 1)]
