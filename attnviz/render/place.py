"""A map of the model's input to the pixels of the photo: bilinear, or smooth where it is drawn."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from ..geometry import Geometry, size_of

if TYPE_CHECKING:
    from torch import Tensor


#: a map is drawn smoothly where each of its cells covers at least so many pixels
SMOOTH_FROM = 3.0


@dataclass(frozen=True, eq=False)
class Axis:
    """How the cells of a map fall on the pixels of a photo, along one axis.

    Attributes:
        weights: (n, cells) float32, read-only, rows adding up to 1: how much each cell counts at
            each of the n covered pixels.
        first: the first covered pixel.
        unchanged: pixel i is cell i, so there is nothing to interpolate.
        plain: the covered pixels span exactly the cells, more pixels than cells: what
            `cv2.resize` computes, faster than a product with many columns.
    """

    weights: np.ndarray
    first: int
    unchanged: bool
    plain: bool

    @property
    def stop(self) -> int:
        """The pixel after the last covered one."""
        return self.first + len(self.weights)


@lru_cache(maxsize=64)
def axis(cells: int, pixels: int, low: float, high: float, smooth: bool = False) -> Axis:
    """Return the axis of a map of `cells` spanning [low, high) of `pixels` pixels.

    Pixel i spans [i, i + 1) and is covered if its centre lies in the span. Interpolation is
    linear between cell centres and constant beyond the outer ones (torch's
    `align_corners=False`); where several cells fall on one pixel they are averaged with a
    triangle (`antialias=True`). With `smooth` it is cubic (Keys 1981, a = -1/2, as torch's
    "bicubic" with antialias): through the cells' values, without the corners of the linear one.
    """
    first = max(0, int(np.ceil(low - 0.5)))
    stop = max(first, min(pixels, int(np.ceil(high - 0.5))))
    scale = cells / (high - low)
    position = (np.arange(first, stop) + 0.5 - low) * scale - 0.5
    distance = np.abs(np.arange(cells)[None, :] - position[:, None]) / max(1.0, scale)
    weights = _cubic(distance) if smooth else np.maximum(0.0, 1.0 - distance)
    weights /= weights.sum(axis=1, keepdims=True)
    weights = weights.astype(np.float32)
    weights.setflags(write=False)
    exact = low == first and high == stop
    plain = exact and scale <= 1.0 and not smooth
    return Axis(weights, first, exact and stop - first == cells, plain)


def _cubic(distance: np.ndarray) -> np.ndarray:
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1.0
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4.0 * distance + 2.0
    return np.where(distance < 1.0, near, np.where(distance < 2.0, far, 0.0))


@dataclass(frozen=True, eq=False)
class Placement:
    """Where a map of a given shape lies on a photo, and whether cells are joined smoothly."""

    rows: Axis
    columns: Axis
    smooth: bool = False

    @classmethod
    def of(cls, shape: tuple[int, ...], geometry: Geometry, *, smooth: bool = False) -> Placement:
        """Return the placement of a map (h, w) whose whole extent is the model's input.

        Args:
            shape: of the map.
            geometry: of photo and input.
            smooth: bicubic, cut at the map's own range, where cells are large enough to be seen.
        """
        left, top, right, bottom = geometry.crop
        height, width = geometry.image_size
        smooth = smooth and is_coarse(shape, geometry)
        return cls(
            axis(shape[0], height, top, bottom, smooth),
            axis(shape[1], width, left, right, smooth),
            smooth,
        )

    def strip(self, values: np.ndarray, top: int, stop: int) -> np.ndarray:
        """Return a float32 map (h, w) on the photo's rows [top, stop), covered columns only."""
        first = self.rows.first
        if self.smooth:
            out = self.rows.weights[top - first : stop - first] @ values @ self.columns.weights.T
            return np.clip(out, np.fmin.reduce(values, None), np.fmax.reduce(values, None))
        if self.rows.unchanged:
            out = values[top - first : stop - first]
        else:
            out = self.rows.weights[top - first : stop - first] @ values
        if self.columns.unchanged:
            return out
        if self.columns.plain and values.shape[1] > 32:
            import cv2

            size = (len(self.columns.weights), stop - top)
            return cv2.resize(out, size, interpolation=cv2.INTER_LINEAR)
        return out @ self.columns.weights.T


def is_coarse(shape: tuple[int, ...], geometry: Geometry) -> bool:
    """Return whether each cell of a map covers several pixels of the photo."""
    left, top, right, bottom = geometry.crop
    return min((bottom - top) / shape[-2], (right - left) / shape[-1]) >= SMOOTH_FROM


def place(values: np.ndarray, geometry: Geometry, *, smooth: bool = False) -> np.ndarray:
    """Return a map (h, w) on the photo, (H, W) float32, NaN where the model saw nothing.

    Bilinear, which boxes and masks are measured on; `smooth` is for drawing, see `Placement.of`.
    """
    at = Placement.of(values.shape, geometry, smooth=smooth)
    out = np.full(geometry.image_size, np.nan, dtype=np.float32)
    if len(at.rows.weights) and len(at.columns.weights):
        covered = at.strip(np.asarray(values, np.float32), at.rows.first, at.rows.stop)
        out[at.rows.first : at.rows.stop, at.columns.first : at.columns.stop] = covered
    return out


def place_tensor(values: Tensor, geometry: Geometry) -> Tensor:
    """Return maps (B, h, w) on photos of one geometry, (B, H, W), on their device, with a graph.

    NaN where the model saw nothing.
    """
    at = Placement.of(size_of(values), geometry)
    rows, columns = at.rows, at.columns
    out = values.new_full((*values.shape[:-2], *geometry.image_size), float("nan"))
    covered = device_weights(rows, values) @ values @ device_weights(columns, values).T
    out[..., rows.first : rows.stop, columns.first : columns.stop] = covered
    return out


def device_weights(axis: Axis, like: Tensor) -> Tensor:
    """Return the weights of an axis as a tensor of another one's device and type."""
    import torch

    return torch.from_numpy(axis.weights.copy()).to(device=like.device, dtype=like.dtype)


def scaled(geometry: Geometry, size: tuple[int, int]) -> Geometry:
    """Return the geometry on the same photo drawn at another size (height, width)."""
    sy, sx = size[0] / geometry.image_size[0], size[1] / geometry.image_size[1]
    left, top, right, bottom = geometry.crop
    return Geometry(size, geometry.input_size, (left * sx, top * sy, right * sx, bottom * sy))
