"""Spatial gates and pooling weights: one number for each place, over the photo."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ._canvas import array, new_figure, picture, scale_bar, show_map, show_photo

if TYPE_CHECKING:
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
        after: (C, h, w), what comes out: drawn likewise and on the same scale.
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
    figure = new_figure(2.3 * (2 + len(sizes)) + 1.3, 2.9)
    axes = figure.subplots(1, 2 + len(sizes))
    show_photo(axes[0], seen, "input")
    show_map(
        axes[1], seen, values, top=top, title=f"{label}: {values.min():.3g} to {values.max():.3g}"
    )
    if outline is not None:
        mask = array(outline, 2, "the outline")
        y, x = (
            (np.arange(n) + 0.5) * side / n for n, side in zip(mask.shape, seen.shape, strict=False)
        )
        axes[1].contour(x, y, mask, [0.5], colors="#00d5ff", linewidths=1.2)
    scale_bar(figure, axes[1], top, f"{label}, 0 to {top:.3g}")
    if sizes:
        most = max(float(size.max()) for _, size in sizes)
        for ax, (name, size) in zip(axes[2:], sizes, strict=True):
            show_map(ax, None, size, top=most, title=f"mean |activation| {name}", colormap="gray")
        scale_bar(figure, axes[2:], most, f"0 to {most:.3g}", colormap="gray")
    figure.suptitle(title, fontsize=9)
    return figure
