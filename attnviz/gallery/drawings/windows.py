"""Attention in windows: a neighbourhood for each pixel, or blocks with a halo."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import DataError
from ._canvas import array
from .pairs import Place, place_grid

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def neighbourhoods(weights: Any, photo: Any, places: Sequence[Place], *, title: str = "") -> Figure:
    """Draw where chosen pixels look inside the window around them.

    Stand-alone self-attention (Ramachandran et al. 2019, arXiv:1906.05909).

    Args:
        weights: (heads, H, W, k, k), k odd: of pixel (i, j), weights of its neighbours
            (i - k // 2 + a, j - k // 2 + b).
        photo: (3, H', W') in [0, 1] or (H', W', 3) uint8.
        places: queries as (row, column).
        title: above.

    Raises:
        DataError: shapes do not fit.
    """
    values = array(weights, 5, "the weights")
    heads, height, width, k, across = values.shape
    if k != across or k % 2 == 0:
        raise DataError(f"weights of shape {values.shape}; expected (heads, H, W, k, k), k odd")
    rows = [
        (
            (i, j),
            np.stack([on_grid(v[i, j], i - k // 2, j - k // 2, (height, width)) for v in values]),
        )
        for i, j in places
    ]
    names = [f"head {h}" for h in range(heads)]
    return place_grid(rows, photo, (height, width), names=names, title=title)


def blocks(
    weights: Any,
    photo: Any,
    places: Sequence[Place],
    *,
    block: int,
    halo: int,
    grid: Place | None = None,
    title: str = "",
) -> Figure:
    """Draw where chosen pixels look inside their block and its halo.

    Halo attention (Vaswani et al. 2021, arXiv:2103.12731). What lies beyond the picture is not
    drawn; how much of the weight that is stands in the title of the map's row.

    Args:
        weights: (blocks, heads, block ** 2, (block + 2 halo) ** 2), blocks row by row.
        photo: (3, H, W) in [0, 1] or (H, W, 3) uint8.
        places: queries as (row, column).
        block: side of a block.
        halo: how far beyond its block a query looks.
        grid: (rows, columns) of pixels; None: a square.
        title: above.

    Raises:
        DataError: shapes do not fit.
    """
    values = array(weights, 4, "the weights")
    count, heads, queries, keys = values.shape
    side = round(count**0.5) * block
    grid = grid or (side, side)
    window = block + 2 * halo
    if (queries, keys) != (block**2, window**2) or grid[0] * grid[1] != count * queries:
        raise DataError(
            f"weights of shape {values.shape} for blocks of {block} with a halo of {halo} on "
            f"{grid[0]} x {grid[1]} pixels; expected (blocks, heads, {block**2}, {window**2})"
        )
    rows = []
    for place in map(tuple, places):
        (down, y), (across, x) = divmod(place[0], block), divmod(place[1], block)
        own = values[down * (grid[1] // block) + across, :, y * block + x]
        top, left = down * block - halo, across * block - halo
        maps = [on_grid(one.reshape(window, window), top, left, grid) for one in own]
        rows.append((place, np.stack(maps)))
    names = [f"head {h}" for h in range(heads)]
    return place_grid(rows, photo, grid, names=names, title=title)


def on_grid(window: np.ndarray, top: int, left: int, grid: Place) -> np.ndarray:
    """Put a window (k, k) at (top, left) of a map, cut at its edges; NaN elsewhere."""
    out = np.full(grid, np.nan)
    high, wide = window.shape
    rows = slice(max(top, 0), min(top + high, grid[0]))
    columns = slice(max(left, 0), min(left + wide, grid[1]))
    out[rows, columns] = window[
        rows.start - top : rows.stop - top, columns.start - left : columns.stop - left
    ]
    return out
