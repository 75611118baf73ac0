"""Self-attention of one layer: where the class token looks, who looks at whom, how sharply."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import DataError
from ._canvas import COLORMAP, array, new_figure, picture, scale_bar, show_map

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def layer(
    weights: Any,
    photo: Any,
    grid: tuple[int, int],
    *,
    box: Any = None,
    title: str = "",
) -> Figure:
    """Draw one layer: the class token's map, the matrix of all tokens, its sorted weights.

    Softmax rows sum to 1; ReLU rows (Wortsman et al. 2023, arXiv:2309.08586) need not, and hold
    exact zeros. The legend says both.

    Args:
        weights: (heads, N, N), each >= 0; token 0 is the class token, the patches are the last.
        photo: (3 or 1, H, W) in [0, 1] or (H, W, 3) uint8.
        grid: (rows, columns) of patches.
        box: (4,) x0, y0, x1, y1 in pixels of what should be looked at, dashed; None: none.
        title: above.

    Raises:
        DataError: shapes do not fit.
    """
    from matplotlib.patches import Rectangle

    values, shown = array(weights, 3, "the weights"), picture(photo)
    count = grid[0] * grid[1]
    if values.shape[1] != values.shape[2] or values.shape[2] <= count:
        raise DataError(
            f"weights of shape {values.shape} for {grid[0]} x {grid[1]} patches; expected (heads, "
            f"N, N), N at least {count + 1}: a class token and the patches"
        )
    rows = values[:, 0]
    seen = rows[:, -count:].mean(0).reshape(grid)
    figure = new_figure(11.4, 3.9)
    axes = figure.subplots(1, 3, width_ratios=[1, 1.15, 1.2])
    top = float(seen.max())
    show_map(axes[0], shown, seen, top=top, title="the class token looks (mean of heads)")
    scale_bar(figure, axes[0], top, "weight of a patch", location="bottom")
    if box is not None:
        x0, y0, x1, y1 = array(box, 1, "the box")
        axes[0].add_patch(
            Rectangle(
                (x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor="#00d5ff", linestyle="--",
                linewidth=1.5,
            )
        )  # fmt: skip
    mean = values.mean(0)
    axes[1].imshow(mean, cmap=COLORMAP, vmin=0, vmax=mean.max() or 1, interpolation="nearest")
    axes[1].set_title("all tokens (mean of heads); the first is the class token", fontsize=8)
    axes[1].set_xlabel("is looked at", fontsize=8)
    axes[1].set_ylabel("looks", fontsize=8)
    scale_bar(figure, axes[1], float(mean.max()), "attention weight", location="bottom")
    for number, row in enumerate(rows):
        axes[2].plot(
            np.arange(1, len(row) + 1), np.sort(row)[::-1],
            label=f"head {number}: sum {row.sum():.2f}, {np.mean(row == 0):.0%} exactly 0",
        )  # fmt: skip
    axes[2].set_title("the class token's weights, largest first", fontsize=8)
    axes[2].set_xlabel("rank", fontsize=8)
    axes[2].set_ylabel("attention weight", fontsize=8)
    axes[2].set_ylim(0, None)
    axes[2].legend(fontsize=7)
    for ax in axes[1:]:
        ax.tick_params(labelsize=7)
    figure.suptitle(title, fontsize=10)
    return figure
