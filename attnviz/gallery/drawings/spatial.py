"""Spatial gates and pooling weights: one number for each place, over the photo."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ._canvas import array, new_figure, picture, scale_bar, show_map, show_photo

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def spatial_gate(
    gate: Any,
    photo: Any,
    *,
    before: Any = None,
    after: Any = None,
    title: str = "",
    top: float | None = 1.0,
    label: str = "gate",
    outline: Any = None,
) -> Figure:
    """Draw one weight for each place over the photo, and what it lets through.

    The spatial half of CBAM (Woo et al. 2018, arXiv:1807.06521), attention gates (Oktay et al.
    2018, arXiv:1804.03999), the softmax pooling of global context (Cao et al. 2019,
    arXiv:1904.11492).

    Args:
        gate: (h, w) or (1, h, w), not negative.
        photo: (3, H, W) in [0, 1] or (H, W, 3) uint8.
        before: (C, h, w), what the gate multiplies: drawn as its mean size over channels.
        after: (C, h, w), what comes out: drawn likewise, from 0 to its own maximum.
        title: above.
        top: end of the colour scale; None: the largest weight.
        label: of the colour bar.
        outline: (H, W) mask whose edge is drawn on the gate, such as the object sought.

    Raises:
        DataError: shapes do not fit.
    """
    values = array(gate, 2, "the gate")
    seen = picture(photo)
    top = float(values.max()) if top is None else top
    sizes = [
        (name, abs(array(part, 3, name)).mean(0))
        for name, part in (("before", before), ("after", after))
        if part is not None
    ]
    figure = new_figure(2.5 * (2 + len(sizes)) + 1.0, 2.9)
    axes = figure.subplots(1, 2 + len(sizes))
    show_photo(axes[0], seen, "input")
    show_map(
        axes[1], seen, values, top=top, title=f"{label}: {values.min():.3g} to {values.max():.3g}"
    )
    if outline is not None:
        edge(axes[1], seen.shape[:2], array(outline, 2, "the outline"))
    scale_bar(figure, axes[1], top, f"{label}, 0 to {top:.3g}")
    for ax, (name, size) in zip(axes[2:], sizes, strict=True):
        most = float(size.max())
        show_map(ax, None, size, top=most, title=f"mean |activation| {name}", colormap="gray")
        scale_bar(figure, ax, most, f"0 to {most:.3g}", colormap="gray")
    figure.suptitle(title, fontsize=9)
    return figure


def edge(ax: Axes, size: tuple[int, int], mask: np.ndarray, **style: Any) -> None:
    """Draw the edge of a mask (h, w) that covers a photo of this (height, width)."""
    y, x = (
        (np.arange(count) + 0.5) * side / count
        for count, side in zip(mask.shape, size, strict=True)
    )
    ax.contour(x, y, mask, [0.5], **{"colors": "#00d5ff", "linewidths": 1.2} | style)
