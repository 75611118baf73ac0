"""Hard attention of glimpses: the path over the picture, and what each glimpse saw."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import DataError
from ._canvas import ACCENT, SECOND, array, new_figure, picture, scale_bar, show_map, show_photo

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GOOD = "#00d5ff"


def glimpse_path(
    locations: Any,
    photo: Any,
    *,
    size: int,
    scales: int = 1,
    box: Any = None,
    patches: Any = None,
    notes: list[str] | None = None,
    title: str = "",
) -> Figure:
    """Draw numbered glimpses in order, each with the squares that it reads.

    Recurrent attention model (Mnih et al. 2014, arXiv:1406.6247).

    Args:
        locations: (T, 2) centres (x, y), normalised: -1 and 1 are the picture's edges.
        photo: (3 or 1, H, W) in [0, 1] or (H, W, 3) uint8.
        size: side in pixels of the finest square; the next ones are 2, 4 ... times as wide.
        scales: squares a glimpse.
        box: (4,) x0, y0, x1, y1 in pixels of what should be found, dashed; None: none.
        patches: (T, scales, size, size) what each glimpse saw, drawn below; None: not drawn.
        notes: a few words below each glimpse's patches, such as the answer after it.
        title: above.

    Raises:
        DataError: shapes do not fit.
    """
    from matplotlib.patches import Rectangle

    shown, places = picture(photo), array(locations, 2, "the locations")
    if places.shape[1] != 2:
        raise DataError(f"locations of shape {places.shape}; expected (glimpses, 2) as (x, y)")
    high, wide = shown.shape[:2]
    points = (places + 1) / 2 * [wide, high]
    seen = None if patches is None else array(patches, 4, "the patches")
    if seen is not None and seen.shape[:2] != (len(points), scales):
        raise DataError(
            f"patches of shape {seen.shape} for {len(points)} glimpses of {scales} scales"
        )
    figure = new_figure(4.6 + (0.0 if seen is None else 0.95 * len(points)), 4.4)
    left, right = figure, None
    if seen is not None:
        ratios = [4.6, 0.95 * len(points)]
        left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=ratios)[0]
    ax = left.subplots()
    show_photo(ax, shown)
    if box is not None:
        x0, y0, x1, y1 = array(box, 1, "the box")
        ax.add_patch(
            Rectangle(
                (x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=GOOD, linestyle="--",
                linewidth=1.5, gid="truth",
            )
        )  # fmt: skip
    _squares(ax, points, size, scales)
    ax.plot(*points.T, "-", color=ACCENT, linewidth=1.2)
    ax.plot(*points.T, ".", color=ACCENT, markersize=4)
    taken: list[np.ndarray] = []
    for number, point in enumerate(points, 1):
        spot = point.copy()
        while any(np.abs(spot - other).max() < 0.05 * wide for other in taken):
            spot[0] += 0.01 * wide  # numbers beside each other where glimpses coincide
        taken.append(spot)
        _number(ax, spot, number)
    ax.set_xlim(min(0, (points[:, 0] - size / 2).min()), max(wide, (points[:, 0] + size / 2).max()))
    ax.set_ylim(max(high, (points[:, 1] + size / 2).max()), min(0, (points[:, 1] - size / 2).min()))
    if seen is not None and right is not None:
        _strips(right, seen, size, notes)
    figure.suptitle(title, fontsize=10)
    widths = ", ".join(str(size * 2**scale) for scale in range(scales))
    figure.supxlabel(
        f"numbers: glimpses in order; squares: {widths} pixels wide, each seen as {size} x {size}"
        + ("; dashed: what should be found" if box is not None else ""),
        fontsize=8,
    )
    return figure


def _number(ax: Axes, spot: Any, number: int) -> None:
    ax.text(
        spot[0], spot[1], str(number), ha="center", va="center", fontsize=8, color="white",
        bbox={"boxstyle": "circle,pad=0.22", "facecolor": SECOND, "edgecolor": "white"},
    )  # fmt: skip


def _squares(ax: Axes, points: np.ndarray, size: int, scales: int) -> None:
    from matplotlib.patches import Rectangle

    for x, y in points:
        for scale in range(scales):
            side = size * 2**scale
            ax.add_patch(
                Rectangle(
                    (x - side / 2, y - side / 2), side, side, fill=False, edgecolor=ACCENT,
                    linewidth=1.2 / (scale + 1), alpha=1 / (scale + 1), clip_on=True, gid="glimpse",
                )
            )  # fmt: skip


def _strips(figure: Any, seen: np.ndarray, size: int, notes: list[str] | None) -> None:
    """Draw one column of patches a glimpse, the finest above."""
    axes = figure.subplots(seen.shape[1], len(seen), squeeze=False)
    for number in range(len(seen)):
        for scale in range(seen.shape[1]):
            ax = axes[scale, number]
            ax.imshow(seen[number, scale], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            ax.set_xticks([])
            ax.set_yticks([])
            if number == 0:
                ax.set_ylabel(f"{size * 2**scale} px", fontsize=8)
        axes[0, number].set_title(str(number + 1), fontsize=8, pad=3)
        if notes is not None:
            axes[-1, number].set_xlabel(notes[number], fontsize=8)


def chosen_cells(
    saliency: Any,
    chosen: Any,
    photo: Any,
    *,
    context: float = 0.0,
    box: Any = None,
    title: str = "",
) -> Figure:
    """Draw where a fine model is sent: the saliency of each cell, and the cells chosen by it.

    Dynamic capacity networks (Almahairi et al. 2016, arXiv:1511.07838).

    Args:
        saliency: (h, w), the norm of the entropy's gradient in each cell, >= 0.
        chosen: (k, 2) row and column, the most salient first.
        photo: (3 or 1, H, W) in [0, 1] or (H, W, 3) uint8.
        context: pixels read beyond a chosen cell on each side.
        box: (4,) x0, y0, x1, y1 in pixels of what should be found, dashed; None: none.
        title: above.
    """
    from matplotlib.patches import Rectangle

    values, cells = array(saliency, 2, "the saliency"), array(chosen, 2, "the chosen cells")
    shown = picture(photo)
    high, wide = shown.shape[0] / values.shape[0], shown.shape[1] / values.shape[1]
    figure = new_figure(8.0, 4.1)
    axes = figure.subplots(1, 2)
    top = float(values.max())
    show_map(axes[0], shown, values, top=top, title="norm of the entropy's gradient")
    scale_bar(figure, axes[0], top, "nats per unit of a coarse vector")
    show_photo(axes[1], shown, "read by the fine model, in this order")
    for number, (row, column) in enumerate(cells, 1):
        axes[1].add_patch(
            Rectangle(
                (column * wide - context, row * high - context), wide + 2 * context,
                high + 2 * context, fill=False, edgecolor=ACCENT, linewidth=1.6, gid="fine",
            )
        )  # fmt: skip
        _number(axes[1], ((column + 0.5) * wide, (row + 0.5) * high), number)
    if box is not None:
        x0, y0, x1, y1 = array(box, 1, "the box")
        for ax in axes:
            ax.add_patch(
                Rectangle(
                    (x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=GOOD, linestyle="--",
                    linewidth=1.5, gid="truth",
                )
            )  # fmt: skip
    for ax in axes:
        ax.set_xlim(-context, shown.shape[1] + context)
        ax.set_ylim(shown.shape[0] + context, -context)
    figure.suptitle(title, fontsize=10)
    return figure
