"""What the drawings share: figures without a window, photos, and maps laid over them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import DataError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORMAP = "inferno"
#: Okabe and Ito's colours: an accent, a quiet one, a second accent
ACCENT, QUIET, SECOND = "#D55E00", "#9a9aa2", "#0072B2"

#: of a pixel's difference from the median around it: noise above, and what photos have below
_NOISE = 0.1


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of so many inches that belongs to no window."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", dpi=110)


def array(values: Any, rank: int, what: str) -> np.ndarray:
    """Return a tensor or array as float64 of this rank; single leading dimensions are dropped.

    Raises:
        DataError: the rank is another, or a value is infinite.
    """
    out = np.asarray(values.detach().cpu() if hasattr(values, "detach") else values, float)
    given = out.shape
    while out.ndim > rank and out.shape[0] == 1:
        out = out[0]
    if out.ndim != rank:
        raise DataError(
            f"{what} has shape {given}; expected {rank} dimensions for one image, so pick one of "
            "the batch first, as in entry.read()[0]"
        )
    if np.isinf(out).any():
        raise DataError(f"{what} holds infinite values and cannot be drawn")
    return out


def picture(photo: Any) -> np.ndarray:
    """Return a photo as (H, W, 3) in [0, 1], from (3 or 1, H, W) floats or (H, W, 3) uint8.

    Raises:
        DataError: neither of these.
    """
    out = np.asarray(photo.detach().cpu() if hasattr(photo, "detach") else photo)
    if out.ndim == 3 and out.shape[0] in (1, 3) and out.shape[2] not in (1, 3):
        out = out.transpose(1, 2, 0)
    if out.ndim != 3 or out.shape[2] not in (1, 3):
        raise DataError(
            f"the photo has shape {out.shape}; expected (3, H, W) floats in [0, 1] or (H, W, 3) "
            "uint8"
        )
    out = out / 255 if out.dtype == np.uint8 else np.clip(out.astype(float), 0, 1)
    return np.repeat(out, 3, 2) if out.shape[2] == 1 else out


def bare(ax: Axes, title: str = "", *, size: float = 8) -> None:
    """Take the ticks off and set the title."""
    ax.set_xticks([])
    ax.set_yticks([])
    if title:
        ax.set_title(title, fontsize=size, pad=3)


def show_photo(ax: Axes, photo: np.ndarray, title: str = "") -> None:
    """Draw a photo as it is."""
    height, width = photo.shape[:2]
    ax.imshow(photo, extent=(0, width, height, 0), interpolation="nearest")
    bare(ax, title)


def show_map(
    ax: Axes,
    photo: np.ndarray | None,
    values: np.ndarray,
    *,
    top: float,
    title: str = "",
    colormap: str = COLORMAP,
) -> Any:
    """Draw a map (h, w) from 0 to `top` over the greyed photo; NaN is left clear.

    Opacity follows the value as in `attnviz.render.overlay`; noise of the photo that would hide
    the map is filtered out. The axes' last image holds the values themselves.
    """
    top = top or 1.0
    height, width = values.shape if photo is None else photo.shape[:2]
    extent = (0, width, height, 0)
    opacity = None
    if photo is not None:
        photo = _calm(photo)
        grey = 0.3 * photo + 0.7 * (photo @ [0.299, 0.587, 0.114])[..., None]
        grey = 0.2 + 0.6 * grey  # less contrast below, so that the map stands out
        ax.imshow(grey, extent=extent, interpolation="nearest")
        opacity = 0.85 * np.clip(np.nan_to_num(values) / top, 0, 1) ** 0.6
    drawn = ax.imshow(
        values, cmap=colormap, vmin=0, vmax=top, alpha=opacity, extent=extent,
        interpolation="nearest",
    )  # fmt: skip
    bare(ax, title)
    return drawn


def _calm(photo: np.ndarray) -> np.ndarray:
    """Return a photo through a median filter of 5 x 5 if most of its pixels are noise."""
    from PIL import Image, ImageFilter

    small = Image.fromarray(np.uint8(np.round(255 * photo)))
    smooth = np.asarray(small.filter(ImageFilter.MedianFilter(5))) / 255
    return smooth if np.median(abs(smooth - photo)) > _NOISE else photo


def scale_bar(
    figure: Figure, axes: Any, top: float, label: str, *, colormap: str = COLORMAP, **options: Any
) -> None:
    """Add a colour bar from 0 to `top`."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    bar = figure.colorbar(
        ScalarMappable(Normalize(0, top or 1.0), colormap), ax=axes, shrink=0.85, **options
    )
    bar.set_label(label, fontsize=8)
    bar.ax.tick_params(labelsize=7)


def mark(
    ax: Axes, photo: np.ndarray, grid: tuple[int, int], place: Sequence[int], **style: Any
) -> None:
    """Outline one cell (row, column) of a grid that covers the photo."""
    from matplotlib.patches import Rectangle

    high, wide = photo.shape[0] / grid[0], photo.shape[1] / grid[1]
    look = {"edgecolor": "#00d5ff", "linewidth": 1.6, "fill": False} | style
    ax.add_patch(Rectangle((place[1] * wide, place[0] * high), wide, high, **look))
