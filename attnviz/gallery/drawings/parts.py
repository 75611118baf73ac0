"""Attention to parts: K maps that share an image out, and which of them is strongest where.

A part's colour among the strongest is that of its map's title.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import DataError
from ._canvas import array, bare, new_figure, picture, scale_bar, show_map, show_photo

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLUMNS = 6


def parts(
    shares: Any,
    photo: Any,
    *,
    name: str = "part",
    each: bool = False,
    top: float | None = None,
    label: str = "share",
    title: str = "",
    winner: bool = True,
) -> Figure:
    """Draw one map for each of K parts, and the strongest part of each place.

    Expectation-maximisation attention (Li et al. 2019, arXiv:1907.13426): responsibilities of K
    bases, summing to 1 at each place, `top=1`. Hamburger (Geng et al. 2021, arXiv:2109.04553):
    codes, not normalised. Lambda layers (Bello 2021, arXiv:2102.08602): keys, each map summing
    to 1.

    Args:
        shares: (K, h, w), not negative.
        photo: (3, H, W) in [0, 1] or (H, W, 3) uint8.
        name: of one map: "basis", "part", "key".
        each: every map goes from 0 to its own maximum; otherwise all to `top`.
        top: end of the colour scale; None: the largest value.
        label: of the colour bar.
        title: above.
        winner: also draw which map is the largest at each place.

    Raises:
        DataError: shapes do not fit, or a value is negative.
    """
    values = array(shares, 3, "the shares")
    if values.min() < 0:
        raise DataError(f"shares down to {values.min():.3g}; expected values of 0 or more")
    seen = picture(photo)
    extra = 1 + winner
    count = len(values) + extra
    columns = min(_COLUMNS, count)
    lines = -(-count // columns)
    figure = new_figure(1.6 * columns + 1.0, 1.8 * lines + 0.5)
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    show_photo(axes[0], seen, "input")
    if winner:
        _winners(axes[1], values, seen, name)
    top = float(values.max()) if top is None else top
    for k, (ax, one) in enumerate(zip(axes[extra:], values, strict=False)):
        most = float(one.max())
        text = f"{name} {k}: max {most:.2g}" if each else f"{name} {k}"
        show_map(ax, seen, one, top=most if each else top, title=text)
        if winner:
            ax.title.set_color(_colour(k, len(values)))
            ax.title.set_fontweight("bold")
    for ax in axes[count:]:
        ax.set_visible(False)
    if each:
        scale_bar(figure, axes, 1.0, f"{label}, 0 to each map's max", ticks=[0, 1], aspect=25)
        figure.axes[-1].set_yticklabels(["0", "max"])
    else:
        scale_bar(figure, axes, top, f"{label}, 0 to {top:.3g}", aspect=25)
    figure.suptitle(title, fontsize=9)
    return figure


def _winners(ax: Any, values: np.ndarray, seen: np.ndarray, name: str) -> None:
    height, width = seen.shape[:2]
    strongest = np.where(values.max(0) > 0, values.argmax(0), -1)
    colours = np.ones((*strongest.shape, 3))
    for k in range(len(values)):
        colours[strongest == k] = _colour(k, len(values))
    ax.imshow(colours, extent=(0, width, height, 0), interpolation="nearest")
    bare(ax, f"largest {name}")


def _colour(number: int, count: int) -> tuple[float, ...]:
    from matplotlib import colormaps

    table = colormaps["tab10" if count <= 10 else "tab20"]
    return table(number % table.N)[:3]
