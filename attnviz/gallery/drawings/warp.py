"""Spatial transformers: the window that theta cuts out of the picture, and what is seen in it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import DataError
from ..modules.spatial_transformer import quadrilateral, read_theta
from ._canvas import ACCENT, SECOND, array, new_figure, picture, show_photo

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def pixels(points: Any, height: int, width: int) -> np.ndarray:
    """Return normalised (x, y), -1 and 1 at the picture's edges, as pixels from the top left."""
    out = np.asarray(points, float)
    return (out + 1) / 2 * [width, height]


def window(
    theta: Any, photo: Any, *, size: tuple[int, int] | None = None, every: int = 4, title: str = ""
) -> Figure:
    """Draw theta as a quadrilateral on the picture, the grid sampled in it, and what is seen.

    Spatial transformers (Jaderberg et al. 2015, arXiv:1506.02025). The corner of the window that
    becomes the top left of the output is marked; translation, scale, rotation and shear are those
    of `read_theta`, in pixels and degrees.

    Args:
        theta: (2, 3), output to input coordinates, normalised, align_corners=False.
        photo: (3 or 1, H, W) in [0, 1] or (H, W, 3) uint8, what is sampled.
        size: (height, width) of the output; None: the photo's.
        every: draw every so many of the grid's points along a row and a column.
        title: above.

    Raises:
        DataError: shapes do not fit.
    """
    shown = picture(photo)
    matrix = torch.from_numpy(array(theta, 2, "theta"))
    if matrix.shape != (2, 3):
        raise DataError(f"theta has shape {tuple(matrix.shape)}; expected (2, 3)")
    high, wide = shown.shape[:2]
    size = size or (high, wide)
    source = torch.from_numpy(shown).permute(2, 0, 1)[None]
    grid = F.affine_grid(matrix[None], [1, 3, *size], align_corners=False)
    seen = F.grid_sample(source, grid, align_corners=False)[0].permute(1, 2, 0)
    figure = new_figure(8.6, 3.6)
    axes = figure.subplots(1, 3)
    show_photo(axes[0], shown, "the window on the picture")
    _outline(axes[0], matrix, high, wide)
    points = pixels(grid[0, ::every, ::every], high, wide).reshape(-1, 2)
    show_photo(axes[1], shown, f"sampled: 1 of {every} x {every} points of {size[0]} x {size[1]}")
    axes[1].plot(*points.T, ".", color=ACCENT, markersize=3)
    show_photo(axes[2], seen.numpy().clip(0, 1), "what is seen")
    axes[2].plot([0], [0], "o", color=SECOND, markersize=8, clip_on=False)
    for ax in axes[:2]:  # windows may reach beyond the picture
        corners = pixels(quadrilateral(matrix[None])[0], high, wide)
        low, top = corners.min(0).clip(max=0), corners.max(0).clip(min=[wide, high])
        ax.set_xlim(low[0] - 1, top[0] + 1)
        ax.set_ylim(top[1] + 1, low[1] - 1)
    figure.suptitle(title, fontsize=10)
    figure.supxlabel(describe(matrix, (high, wide)), fontsize=8)
    return figure


def describe(theta: Tensor, size: tuple[int, int]) -> str:
    """Return a (2, 3) theta in words: translation, scale, rotation, shear, for (H, W) pixels."""
    parts = read_theta(theta[None].double(), size=size)
    x, y = parts.translation[0].tolist()
    wide, high = parts.scale[0].tolist()
    return (
        f"centre moved by ({x:+.1f}, {y:+.1f}) pixels;  scale {wide:.2f} x {high:.2f};  "
        f"turned {math.degrees(parts.rotation.item()):+.1f}°;  shear {parts.shear.item():+.2f}"
    )


def _outline(ax: Axes, theta: Tensor, high: int, wide: int) -> None:
    from matplotlib.patches import Polygon

    corners = pixels(quadrilateral(theta[None])[0], high, wide)
    ax.add_patch(Polygon(corners, closed=True, fill=False, edgecolor=ACCENT, linewidth=2))
    ax.plot(*corners[:1].T, "o", color=SECOND, markersize=8, clip_on=False)


def windows(thetas: Any, photos: Any, warped: Any, *, title: str = "") -> Figure:
    """Draw several pictures with their windows above, and what is seen in each below.

    Args:
        thetas: (B, 2, 3).
        photos: (B, 3 or 1, H, W) in [0, 1].
        warped: (B, 3 or 1, h, w), what the network saw.
        title: above.
    """
    values = torch.from_numpy(array(thetas, 3, "the thetas"))
    figure = new_figure(1.35 * len(values) + 0.3, 3.4)
    axes = figure.subplots(2, len(values), squeeze=False)
    for column, theta in enumerate(values):
        shown, seen = picture(photos[column]), picture(warped[column])
        turned = math.degrees(read_theta(theta[None]).rotation.item())
        show_photo(axes[0, column], shown, f"{turned:+.0f}°")
        _outline(axes[0, column], theta, *shown.shape[:2])
        show_photo(axes[1, column], seen)
    figure.suptitle(title, fontsize=10)
    figure.supxlabel(
        "above: the picture with the window theta (dot: its top left) and its turn; "
        "below: what is seen",
        fontsize=8,
    )
    return figure


def shift_curves(
    shift: Any, values: dict[str, Any], slopes: dict[str, Any], *, title: str = ""
) -> Figure:
    """Draw one output pixel, and its derivative, while the window is shifted sideways.

    Args:
        shift: (N,) in pixels.
        values: kernel name -> (N,) value of the output pixel.
        slopes: kernel name -> (N,) derivative by autograd, per pixel of shift.
        title: above.
    """
    x = array(shift, 1, "the shift")
    figure = new_figure(6.4, 4.2)
    axes = figure.subplots(2, 1, sharex=True)
    for (name, value), colour, dash in zip(
        values.items(), (ACCENT, SECOND), ("-", "--"), strict=False
    ):
        axes[0].plot(x, array(value, 1, name), dash, color=colour, label=name)
        axes[1].plot(x, array(slopes[name], 1, name), dash, color=colour, label=name)
    axes[0].set_ylabel("output pixel", fontsize=8)
    axes[1].set_ylabel("its derivative\n(per pixel of shift)", fontsize=8)
    axes[1].set_xlabel("shift of the window in pixels", fontsize=8)
    axes[0].legend(fontsize=8)
    for ax in axes:
        ax.grid(alpha=0.3)
        ax.tick_params(labelsize=7)
    figure.suptitle(title, fontsize=10)
    return figure


def shift_response(
    photo: Tensor, place: tuple[int, int], shift: Tensor, *, mode: str
) -> tuple[Tensor, Tensor]:
    """Measure one output pixel while the sampling grid is shifted in x.

    Args:
        photo: (C, H, W).
        place: (row, column) of the output pixel.
        shift: (N,) in pixels.
        mode: "bilinear" or "nearest".

    Returns:
        Values (N,), channels averaged, and their derivatives by shift (N,), by autograd through
        `F.affine_grid` and `F.grid_sample`.
    """
    width = photo.shape[-1]
    moved = shift.detach().clone().requires_grad_()
    still = torch.zeros_like(moved)
    rows = (still + 1, still, moved * (2 / width), still, still + 1, still)
    theta = torch.stack(rows, 1).view(-1, 2, 3)
    with torch.enable_grad():
        grid = F.affine_grid(theta, [len(moved), *photo.shape], align_corners=False)
        batch = photo[None].expand(len(moved), -1, -1, -1)
        # the edge is repeated: a black border would be a step of its own
        seen = F.grid_sample(batch, grid, mode=mode, padding_mode="border", align_corners=False)
        value = seen[:, :, place[0], place[1]].mean(1)
        (slope,) = torch.autograd.grad(value.sum(), moved)
    return value.detach(), slope
