"""Attention of places on places: for a few queries, where each of them looks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import DataError
from ._canvas import array, mark, new_figure, picture, scale_bar, show_map, show_photo

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Place = tuple[int, int]


def place_maps(
    weights: Any,
    photo: Any,
    places: Sequence[Place],
    *,
    grid: Place | None = None,
    names: Sequence[str] | None = None,
    title: str = "",
) -> Figure:
    """Draw where chosen places look when every place attends every place.

    Non-local networks (Wang et al. 2018, arXiv:1711.07971), bottleneck transformers (Srinivas et
    al. 2021, arXiv:2101.11605).

    Args:
        weights: (heads, Q, K), rows summing to 1, K = rows x columns of the grid; Q = K.
        photo: (3, H, W) in [0, 1] or (H, W, 3) uint8.
        places: queries as (row, column) on the grid.
        grid: (rows, columns); None: a square.
        names: of the heads.
        title: above.

    Raises:
        DataError: shapes or places do not fit.
    """
    values = array(weights, 3, "the weights")
    heads, queries, keys = values.shape
    side = round(keys**0.5)
    grid = grid or (side, side)
    if grid[0] * grid[1] != keys or queries != keys:
        raise DataError(
            f"weights of {queries} queries and {keys} keys for a grid of {grid}; expected one "
            "query and one key for each place"
        )
    rows = [((i, j), values[:, _number((i, j), grid)].reshape(heads, *grid)) for i, j in places]
    names = names or [f"head {h}" for h in range(heads)] if heads > 1 else names or [""]
    return place_grid(rows, photo, grid, names=names, title=title)


def place_grid(
    rows: Sequence[tuple[Place, np.ndarray]],
    photo: Any,
    grid: Place,
    *,
    names: Sequence[str],
    title: str = "",
    label: str = "attention weight",
) -> Figure:
    """Draw one line for each query: the photo with its place, then its maps.

    Args:
        rows: (place, maps (n, h, w)), NaN where that query cannot look. Each map goes from 0 to
            its own maximum, which stands above it.
        photo: (3, H, W) in [0, 1] or (H, W, 3) uint8.
        grid: (rows, columns) that the maps and places are on.
        names: of the n maps.
        title: above.
        label: of the colour bar.
    """
    seen = picture(photo)
    count = len(names)
    figure = new_figure(1.75 * (count + 1) + 0.9, 1.95 * len(rows) + 0.5)
    axes = figure.subplots(len(rows), count + 1, squeeze=False)
    for line, (place, maps) in zip(axes, rows, strict=True):
        if maps.shape != (count, *grid):
            raise DataError(f"maps of shape {maps.shape}; expected {(count, *grid)}")
        show_photo(line[0], seen, f"query ({place[0]}, {place[1]})")
        mark(line[0], seen, grid, place)
        for ax, name, one in zip(line[1:], names, maps, strict=True):
            top = float(np.nanmax(one))
            comma = ", " if name else ""
            show_map(ax, seen, one, top=top, title=f"{name}{comma}max {top:.2g}")
            mark(ax, seen, grid, place, linewidth=0.9)
            _shade(ax, seen, one)
    scale_bar(figure, axes, 1.0, f"{label}, 0 to each map's max", ticks=[0, 1], aspect=25)
    bar = figure.axes[-1]
    bar.set_yticklabels(["0", "max"])
    figure.suptitle(title, fontsize=9)
    return figure


def _number(place: Place, grid: Place) -> int:
    if not (0 <= place[0] < grid[0] and 0 <= place[1] < grid[1]):
        raise DataError(f"place {place} is not on the grid of {grid[0]} x {grid[1]}")
    return place[0] * grid[1] + place[1]


def _shade(ax: Any, seen: np.ndarray, values: np.ndarray) -> None:
    """Draw a line around what the query can see, where that is not everything."""
    open_ = np.isfinite(values)
    if open_.all():
        return
    high, wide = seen.shape[0] / values.shape[0], seen.shape[1] / values.shape[1]
    big = np.pad(open_, 1)
    for i, j in np.argwhere(big[1:] != big[:-1]):  # an edge above row i, column j - 1
        ax.plot([(j - 1) * wide, j * wide], [i * high] * 2, color="white", linewidth=0.8)
    for i, j in np.argwhere(big[:, 1:] != big[:, :-1]):
        ax.plot([j * wide] * 2, [(i - 1) * high, i * high], color="white", linewidth=0.8)
