"""Attention over time: frames with their weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...errors import DataError
from ._canvas import ACCENT, QUIET, array, bare, new_figure, picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def frame_weights(
    weights: Any, frames: Any, *, marked: int | None = None, title: str = ""
) -> Figure:
    """Draw each frame with a bar below it, as tall as its weight.

    Args:
        weights: (T,), summing to 1.
        frames: (T, 3 or 1, H, W) in [0, 1]; values beyond are cut off.
        marked: number of the frame that should be looked at; its bar has another colour.
        title: above.

    Raises:
        DataError: there is not one weight a frame.
    """
    values = array(weights, 1, "the weights")
    if len(values) != len(frames):
        raise DataError(f"{len(values)} weights for {len(frames)} frames")
    figure = new_figure(max(1.05 * len(values), 4.0), 3.2)
    grid = figure.add_gridspec(2, len(values), height_ratios=[1, 1.1])
    bars = figure.add_subplot(grid[1, :])
    for number in range(len(values)):
        ax = figure.add_subplot(grid[0, number])
        ax.imshow(picture(frames[number]), interpolation="nearest")
        bare(ax, f"{values[number]:.2f}")
        if number == marked:
            for spine in ax.spines.values():
                spine.set(color=ACCENT, linewidth=2)
    colours = [ACCENT if number == marked else QUIET for number in range(len(values))]
    bars.bar(range(len(values)), values, color=colours, width=0.8)
    bars.set_xlim(-0.5, len(values) - 0.5)
    bars.set_ylim(0, 1)
    bars.set_xticks(range(len(values)))
    bars.set_xlabel("frame" + ("" if marked is None else " (coloured: the one that counts)"),
                    fontsize=8)  # fmt: skip
    bars.set_ylabel("attention weight", fontsize=8)
    bars.tick_params(labelsize=7)
    figure.suptitle(title, fontsize=10)
    return figure
