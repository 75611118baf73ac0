"""Coordinate attention: a gate for each row and one for each column of each channel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import DataError
from ._canvas import array, new_figure, picture, scale_bar, show_map, show_photo

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def coordinate_gates(
    height: Any, width: Any, photo: Any, *, channels: int = 3, title: str = ""
) -> Figure:
    """Draw the gates of rows and of columns, and their product over the photo.

    Hou, Zhou, Feng 2021 (arXiv:2103.02907): channel c at (i, j) is multiplied by
    `height[c, i] * width[c, j]`.

    Args:
        height: (C, H, 1), a weight in [0, 1] for each channel and row.
        width: (C, 1, W), a weight in [0, 1] for each channel and column.
        photo: (3, H', W') in [0, 1] or (H', W', 3) uint8.
        channels: how many products are shown: of the channels whose product varies most.
        title: above.

    Raises:
        DataError: shapes do not fit.
    """
    rows, columns = array(height, 3, "height"), array(width, 3, "width")
    if rows.shape[2] != 1 or columns.shape[1] != 1 or len(rows) != len(columns):
        raise DataError(
            f"gates of shapes {rows.shape} and {columns.shape}; expected (C, H, 1) and (C, 1, W)"
        )
    product = rows * columns
    spread = product.std((1, 2))
    chosen = np.argsort(-spread, kind="stable")[:channels]
    seen = picture(photo)
    figure = new_figure(2.6 + 1.9 * (len(chosen) + 1), 4.4)
    panels = figure.add_gridspec(2, len(chosen) + 1)
    strips = figure.add_subplot(panels[0, : (len(chosen) + 1) // 2])
    strips.imshow(rows[:, :, 0].T, cmap="inferno", vmin=0, vmax=1, aspect="auto")
    strips.set_ylabel("row", fontsize=8)
    strips.set_title("gates of rows", fontsize=8, pad=3)
    beside = figure.add_subplot(panels[0, (len(chosen) + 1) // 2 :])
    beside.imshow(columns[:, 0].T, cmap="inferno", vmin=0, vmax=1, aspect="auto")
    beside.set_ylabel("column", fontsize=8)
    beside.set_title("gates of columns", fontsize=8, pad=3)
    for ax in (strips, beside):
        ax.set_xlabel("channel", fontsize=8)
        ax.tick_params(labelsize=7)
        ax.locator_params(integer=True)
    below = [figure.add_subplot(panels[1, i]) for i in range(len(chosen) + 1)]
    show_photo(below[0], seen, "input")
    for ax, channel in zip(below[1:], chosen, strict=True):
        show_map(ax, seen, product[channel], top=1.0, title=f"channel {channel}: row x column")
    scale_bar(figure, [strips, beside, *below], 1.0, "gate, 0 to 1")
    figure.suptitle(title, fontsize=9)
    return figure
