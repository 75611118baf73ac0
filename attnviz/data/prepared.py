"""One image as a model sees it: its photo, the input made from it, and annotation placed there.

Every part of attnviz that holds maps against masks takes the mask's place from here: an audit, a
benchmark and a guided training count the same pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError
from ..geometry import Geometry
from ..images import read_image

if TYPE_CHECKING:
    from ..heatmaps import Heatmaps

#: photo (h, w, 3) uint8 -> (tensor (3, H, W), where that lies on the photo)
Preparation = Callable[[np.ndarray], tuple[Tensor, Geometry]]


@dataclass(frozen=True, eq=False, kw_only=True)
class Prepared:
    """A photo with the input that a model gets of it.

    Attributes:
        photo: (h, w, 3) uint8 RGB, upright.
        input: (3, H, W) float, the model's input.
        geometry: where the input lies on the photo.
        file: where it came from, or None.
    """

    photo: np.ndarray
    input: Tensor
    geometry: Geometry
    file: Path | None = None

    @classmethod
    def read(cls, source: Path | Any, prepare: Preparation) -> Prepared:
        """Read and prepare a photo: a path, or anything with `read()`, such as a `Sample`."""
        if isinstance(source, Path):
            photo, file = read_image(source), source
        else:
            photo = source.read()
            file = source.image if isinstance(source.image, Path) else None
        tensor, geometry = prepare(photo)
        return Prepared(photo=photo, input=tensor, geometry=geometry, file=file)

    @property
    def bytes(self) -> int:
        """What it holds in memory."""
        return self.photo.nbytes + self.input.nbytes

    def attach(self, maps: Heatmaps) -> Heatmaps:
        """Return a single map with its photo, and its place on it."""
        file = None if self.file is None else str(self.file)
        # of a batch made here, a map's own place is that of what the model makes of its input
        inner = maps.geometry[0] if maps.geometry is not None else None
        place = self.geometry if inner is None else self.geometry.inside(inner)
        return replace(maps, geometry=(place,), images=(self.photo,), sources=(file,))

    def mask(self, mask: np.ndarray) -> Tensor:
        """Return where a mask on the photo lies on the input, (H, W) bool; see `mask_on_input`."""
        return mask_on_input(mask, self.geometry)

    def boxes(self, boxes: Sequence[Sequence[float]]) -> Tensor:
        """Return boxes of the photo on the input, (n, 4); see `boxes_on_input`."""
        return boxes_on_input(boxes, self.geometry)


def mask_share(mask: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Return the share of each input pixel that a mask on the photo covers, (H, W) in [0, 1].

    Exact area averages, from the mask's integral image; outside the photo it is 0.

    Args:
        mask: (h, w) bool at the photo's size.
        geometry: where the input lies on the photo.

    Raises:
        DataError: the mask has another size than the photo.
    """
    import cv2

    height, width = geometry.input_size
    left, top, right, bottom = geometry.crop
    if mask.shape != tuple(geometry.image_size):
        raise DataError(f"a mask is {mask.shape}, its photo {tuple(geometry.image_size)} (h, w)")
    if (left, top, right, bottom) == (0, 0, width, height) and mask.shape == (height, width):
        return mask.astype(np.float32)
    # whole numbers, so that a share does not depend on how the pixels before it add up
    integral = cv2.integral(np.ascontiguousarray(mask, np.uint8), sdepth=cv2.CV_32S)
    rows = np.linspace(top, bottom, height + 1)
    columns = np.linspace(left, right, width + 1)
    area = (bottom - top) / height * (right - left) / width
    covered = _along(_along(integral, rows, 0), columns, 1)
    share = np.diff(np.diff(covered, axis=0), axis=1) / area
    return share.round(9).clip(0, 1).astype(np.float32)


def _along(integral: np.ndarray, edges: np.ndarray, axis: int) -> np.ndarray:
    """Return an integral image at fractional edges: it is linear inside a pixel."""
    edges = edges.clip(0, integral.shape[axis] - 1)
    low = np.minimum(np.floor(edges).astype(int), integral.shape[axis] - 2)
    part = edges - low
    part = part[:, None] if axis == 0 else part[None, :]
    return np.take(integral, low, axis) * (1 - part) + np.take(integral, low + 1, axis) * part


def mask_on_input(mask: np.ndarray, geometry: Geometry) -> Tensor:
    """Return a photo's mask (h, w) bool as the model's input shows it, (H, W) bool.

    A pixel of the input belongs to it when at least half of its area does; of a thing that nowhere
    covers so much (thinner than a pixel of the input) every pixel that it touches belongs.
    """
    share = mask_share(mask, geometry)
    inside = share >= 0.5
    return torch.from_numpy(inside if inside.any() else share > 0)


def boxes_on_input(boxes: Sequence[Sequence[float]], geometry: Geometry) -> Tensor:
    """Return boxes of the photo on the model's input, (n, 4) float64, cut at its edges.

    A box of which the input shows no pixel's centre is left out: there is nothing to point at.
    """
    height, width = geometry.input_size
    placed = []
    for x0, y0, x1, y1 in boxes:
        (a, b), (c, d) = geometry.to_input(x0, y0), geometry.to_input(x1, y1)
        a, b, c, d = max(a, 0.0), max(b, 0.0), min(c, float(width)), min(d, float(height))
        if np.ceil(a - 0.5) < np.ceil(c - 0.5) and np.ceil(b - 0.5) < np.ceil(d - 0.5):
            placed.append((a, b, c, d))
    return torch.tensor(placed, dtype=torch.float64).reshape(-1, 4)
