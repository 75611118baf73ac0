"""Deformable convolution: for a few output positions, where their samples are moved to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import DataError
from ._canvas import ACCENT, SECOND, array, new_figure, picture, show_photo

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Pair = tuple[int, int]


def sampled_at(
    offsets: Any,
    place: Pair,
    *,
    kernel: Pair = (3, 3),
    stride: int = 1,
    padding: int = 1,
    dilation: int = 1,
    group: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Return where one output position would sample, and where it does.

    Args:
        offsets: (2 groups kh kw, h, w) as `torchvision.ops.DeformConv2d` takes them: for each
            group, kernel row and column first dy, then dx, in pixels of the feature map.
        place: output (row, column).
        kernel, stride, padding, dilation: of the convolution.
        group: offset group.

    Returns:
        Regular and moved places, (kh kw, 2) each, as (x, y) in feature-map pixels; the centre of
        the top left pixel is (0.5, 0.5).

    Raises:
        DataError: the offsets do not fit the kernel, or there is no such place or group.
    """
    values = array(offsets, 3, "the offsets")
    taps = kernel[0] * kernel[1]
    if values.shape[0] % (2 * taps):
        raise DataError(
            f"offsets of shape {values.shape} for a kernel of {kernel}; expected a multiple of "
            f"{2 * taps} channels, (dy, dx) for each of {taps} places"
        )
    groups, (high, wide) = values.shape[0] // (2 * taps), values.shape[1:]
    row, column = place
    if not (0 <= row < high and 0 <= column < wide and 0 <= group < groups):
        raise DataError(
            f"place {place}, group {group}: there are {high} x {wide} places and {groups} groups"
        )
    moved = values[2 * taps * group : 2 * taps * (group + 1), row, column].reshape(taps, 2)
    rows, columns = np.divmod(np.arange(taps), kernel[1])
    regular = np.stack(
        (
            column * stride - padding + columns * dilation + 0.5,
            row * stride - padding + rows * dilation + 0.5,
        ),
        1,
    )
    return regular, regular + moved[:, ::-1]


def offset_arrows(
    offsets: Any,
    photo: Any,
    places: Sequence[Pair],
    *,
    feature_size: Pair | None = None,
    mask: Any = None,
    kernel: Pair = (3, 3),
    stride: int = 1,
    padding: int = 1,
    dilation: int = 1,
    title: str = "",
) -> Figure:
    """Draw arrows from the regular sampling places of a convolution to the learned ones.

    Deformable convolution (Dai et al. 2017, arXiv:1703.06211); with a mask, modulated (Zhu et al.
    2019, arXiv:1811.11168). The first offset group is drawn.

    Args:
        offsets: (2 groups kh kw, h, w), see `sampled_at`.
        photo: (3 or 1, H, W) in [0, 1] or (H, W, 3) uint8, what the feature map shows.
        places: output positions (row, column); each gets a picture of its own.
        feature_size: (height, width) of the convolution's input; None: as the output.
        mask: (groups kh kw, h, w) in [0, 1]; a dot's area is its value. None: all 1.
        kernel, stride, padding, dilation: of the convolution.
        title: above.

    Raises:
        DataError: shapes or places do not fit.
    """
    values, shown = array(offsets, 3, "the offsets"), picture(photo)
    weights = None if mask is None else array(mask, 3, "the mask")
    taps = kernel[0] * kernel[1]
    if weights is not None and weights.shape != (values.shape[0] // 2, *values.shape[1:]):
        raise DataError(f"a mask of shape {weights.shape} for offsets of shape {values.shape}")
    size = feature_size or (values.shape[1] * stride, values.shape[2] * stride)
    zoom = np.array([shown.shape[1] / size[1], shown.shape[0] / size[0]])
    figure = new_figure(3.1 * len(places) + 0.2, 3.9)
    axes = figure.subplots(1, len(places), squeeze=False)[0]
    for ax, place in zip(axes, places, strict=True):
        regular, moved = sampled_at(
            values, place, kernel=kernel, stride=stride, padding=padding, dilation=dilation
        )
        start, stop = regular * zoom, moved * zoom
        show_photo(ax, shown, f"output ({place[0]}, {place[1]})")
        ax.plot(*start.T, "s", color="white", markersize=4, markeredgecolor="black", zorder=3)
        area = np.ones(taps) if weights is None else weights[:taps, place[0], place[1]]
        ax.scatter(*stop.T, s=70 * area, color=ACCENT, edgecolor="white", linewidth=0.6, zorder=4)
        ax.quiver(
            *start.T, *(stop - start).T, angles="xy", scale_units="xy", scale=1, width=0.007,
            color=SECOND, zorder=3,
        )  # fmt: skip
        ends = np.concatenate((start, stop, [[0, 0], shown.shape[1::-1]]))
        ax.set_xlim(ends[:, 0].min() - 1, ends[:, 0].max() + 1)
        ax.set_ylim(ends[:, 1].max() + 1, ends[:, 1].min() - 1)
    figure.suptitle(title, fontsize=10)
    figure.supxlabel(
        "squares: where a plain convolution reads; dots: where this one does"
        + ("" if weights is None else "; a dot's area: its modulation, 0 to 1"),
        fontsize=8,
    )
    return figure
