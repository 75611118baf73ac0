"""A map of the model's input to the pixels of the photo, by bilinear interpolation."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from ..geometry import Geometry

if TYPE_CHECKING:
    from torch import Tensor


@lru_cache(maxsize=64)
def axis_weights(cells: int, pixels: int, low: float, high: float) -> tuple[np.ndarray, int]:
    """Return how much each map cell counts at each pixel that the map covers, along one axis.

    The map's `cells` span [low, high) of an axis of `pixels` pixels, pixel i spanning [i, i + 1).
    Pixels are covered whose centre lies in the span. Interpolation is linear between cell centres
    and constant beyond the outer ones (what torch calls `align_corners=False`); where several
    cells fall on one pixel they are averaged with a triangle (`antialias=True`).

    Returns:
        weights (n, cells) of float32, read-only, each row adding up to 1; and the first pixel.
    """
    first = max(0, int(np.ceil(low - 0.5)))
    stop = min(pixels, int(np.ceil(high - 0.5)))
    centre = np.arange(first, max(first, stop)) + 0.5
    scale = cells / (high - low)
    position = (centre - low) * scale - 0.5
    distance = np.abs(np.arange(cells)[None, :] - position[:, None]) / max(1.0, scale)
    weights = np.maximum(0.0, 1.0 - distance)
    weights /= weights.sum(axis=1, keepdims=True)
    weights = weights.astype(np.float32)
    weights.setflags(write=False)
    return weights, first


def photo_weights(
    shape: tuple[int, int], geometry: Geometry
) -> tuple[np.ndarray, np.ndarray, int, int]:
    """Return row weights, column weights, and the first row and column that a map covers."""
    left, top, right, bottom = geometry.crop
    height, width = geometry.image_size
    rows, first_row = axis_weights(shape[0], height, top, bottom)
    columns, first_column = axis_weights(shape[1], width, left, right)
    return rows, columns, first_row, first_column


def place(values: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Return a map (h, w) on the photo, (H, W) float32, NaN where the model saw nothing."""
    rows, columns, y, x = photo_weights(values.shape, geometry)
    out = np.full(geometry.image_size, np.nan, dtype=np.float32)
    out[y : y + len(rows), x : x + len(columns)] = interpolate(values, rows, columns)
    return out


def interpolate(values: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return `rows @ values @ columns.T`, leaving out an axis that stays as it is."""
    out = np.asarray(values, dtype=np.float32)
    if not _is_identity(rows):
        out = rows @ out
    return out if _is_identity(columns) else out @ columns.T


def _is_identity(weights: np.ndarray) -> bool:
    # a map at the photo's own resolution: multiplying would cost O(n^3) to change nothing
    n = weights.shape[1]
    return weights.shape == (n, n) and np.count_nonzero(weights.diagonal() == 1.0) == n


def place_tensor(values: Tensor, geometry: Geometry) -> Tensor:
    """Return maps (B, h, w) on photos of one geometry, (B, H, W), on their device, with a graph.

    NaN where the model saw nothing.
    """
    import torch

    rows, columns, y, x = photo_weights(tuple(values.shape[-2:]), geometry)
    r = torch.tensor(rows, device=values.device, dtype=values.dtype)
    c = torch.tensor(columns, device=values.device, dtype=values.dtype)
    out = values.new_full((*values.shape[:-2], *geometry.image_size), float("nan"))
    out[..., y : y + len(rows), x : x + len(columns)] = r @ values @ c.T
    return out


def scaled(geometry: Geometry, size: tuple[int, int]) -> Geometry:
    """Return the geometry on the same photo drawn at another size (height, width)."""
    sy, sx = size[0] / geometry.image_size[0], size[1] / geometry.image_size[1]
    left, top, right, bottom = geometry.crop
    return Geometry(size, geometry.input_size, (left * sx, top * sy, right * sx, bottom * sy))
