"""Criss-cross attention: the cross of one pass, and what two passes reach."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import DataError
from ._canvas import array
from .pairs import Place, place_grid

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def criss_cross(weights: Any, photo: Any, places: Sequence[Place], *, title: str = "") -> Figure:
    """Draw where chosen pixels look along their cross, pass by pass, and through all passes.

    Huang et al. 2019 (arXiv:1811.11721). Through both passes a pixel looks at
    `second @ first`, the residual path left out.

    Args:
        weights: (R, H, W, H + W): of pass r and pixel (i, j), H weights along its column, then W
            along its row; the pixel itself counts in its row.
        photo: (3, H', W') in [0, 1] or (H', W', 3) uint8.
        places: queries as (row, column).
        title: above.

    Raises:
        DataError: shapes do not fit.
    """
    values = array(weights, 4, "the weights")
    passes, height, width, along = values.shape
    if along != height + width:
        raise DataError(f"weights of shape {values.shape}; expected (R, H, W, H + W)")
    rows = []
    for i, j in places:
        place = (i, j)
        maps = [cross(one[place], place, (height, width)) for one in values]
        if passes > 1:
            maps.append(reach(values, place))
        rows.append((place, np.stack(maps)))
    names = [f"pass {r + 1}" for r in range(passes)] + ["through all"] * (passes > 1)
    return place_grid(rows, photo, (height, width), names=names, title=title)


def cross(weights: np.ndarray, place: Place, grid: Place) -> np.ndarray:
    """Write the weights (H + W,) of one pixel as a map (H, W), NaN off its cross."""
    height, width = grid
    out = np.full(grid, np.nan)
    out[:, place[1]] = weights[:height]
    # the pixel lies on both; its column's weight is 0 there
    own = weights[place[0]]
    out[place[0]] = weights[height : height + width]
    out[place] += own
    return out


def reach(weights: np.ndarray, place: Place) -> np.ndarray:
    """Where one pixel looks through all passes (R, H, W, H + W): a map (H, W) summing to 1."""
    grid = (weights.shape[1], weights.shape[2])
    share = np.zeros(grid)
    share[place] = 1.0
    for one in weights[::-1]:  # the last pass looks at what the pass before gathered
        gathered = np.zeros(grid)
        for i, j in np.argwhere(share):
            gathered += share[i, j] * np.nan_to_num(cross(one[i, j], (i, j), grid))
        share = gathered
    return share
