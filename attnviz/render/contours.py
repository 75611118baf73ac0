"""Lines over a photo: contours of a map, ground truth, and the edge of what the model saw."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from ..errors import DataError
from ..geometry import Geometry
from .place import place

#: fractions of the scale at which contours are drawn
LEVELS = (0.2, 0.5, 0.8)

WHITE, BLACK = (255, 255, 255), (0, 0, 0)
#: ground truth: far from every colour of the maps, also for colour-blind readers
TRUTH = (0, 255, 255)

_SHIFT = 4  # OpenCV draws at 1/16 pixel


def contours(
    photo: np.ndarray,
    values: np.ndarray,
    *,
    geometry: Geometry | None = None,
    signed: bool = False,
    levels: Sequence[float] = LEVELS,
    width: float | None = None,
) -> np.ndarray:
    """Return a copy of the photo with lines of equal value: white on a black halo.

    Args:
        photo: (H, W, 3) uint8 RGB.
        values: (h, w) map scaled to [0, 1]; NaN is outside.
        geometry: the place of the model's input; None: the map covers the photo.
        signed: 0.5 is zero; the levels are fractions of the positive half.
        levels: where to draw, each above 0 and below 1.
        width: of the white line in pixels; None: by the photo's size.

    Raises:
        DataError: a level out of range.
    """
    if not all(0.0 < level < 1.0 for level in levels):
        raise DataError(f"levels are {list(levels)}; expected each above 0 and below 1")
    out = np.array(photo, order="C")
    placed = place(values, geometry or Geometry.identity(*photo.shape[:2]))
    if signed:
        placed = 2.0 * placed - 1.0
    paths = [path for level in levels for path in isolines(placed, level)]
    thick = width or line_width(photo.shape)
    _draw(out, paths, BLACK, thick + max(2.0, thick))
    _draw(out, paths, WHITE, thick)
    return out


def truth_outline(
    photo: np.ndarray,
    truth: np.ndarray,
    *,
    size: tuple[int, int] | None = None,
    width: float | None = None,
) -> np.ndarray:
    """Return a copy of the photo with ground truth as dashed lines.

    Args:
        photo: (H, W, 3) uint8 RGB.
        truth: a mask (H, W) of bool, or boxes (n, 4) or (4,) of left, top, right, bottom in
            pixels, right and bottom exclusive.
        size: (height, width) of what the ground truth was drawn on, if not this photo.
        width: of the line in pixels; None: by the photo's size.

    Raises:
        DataError: truth is neither.
    """
    thick = width or line_width(photo.shape)
    size = size or photo.shape[:2]
    stretch = np.array([photo.shape[1] / size[1], photo.shape[0] / size[0]])
    dashes = [
        piece
        for path in truth_paths(truth, size)
        for piece in _dashed(path * stretch, 6.0 * thick, 4.0 * thick)
    ]
    out = np.array(photo, order="C")
    _draw(out, dashes, BLACK, thick + max(2.0, thick))
    _draw(out, dashes, TRUTH, thick)
    return out


def frame(photo: np.ndarray, geometry: Geometry, *, width: float | None = None) -> np.ndarray:
    """Return a copy of the photo with a thin line round the model's crop, if it is a part."""
    left, top, right, bottom = geometry.crop
    rows, columns = geometry.image_size
    if left <= 0 and top <= 0 and right >= columns and bottom >= rows:
        return np.array(photo, order="C")
    thick = width or max(1.0, line_width(photo.shape) / 2)
    lined = np.array(photo, order="C")
    _draw(lined, [_box_path((left, top, right, bottom))], BLACK, thick + 2)
    _draw(lined, [_box_path((left, top, right, bottom))], WHITE, thick)
    # half as strong as a contour: this line is not about the map
    return ((lined.astype(np.uint16) + photo) // 2).astype(np.uint8)


def isolines(values: np.ndarray, level: float) -> list[np.ndarray]:
    """Return the lines on which a map (H, W) has one value, each (n, 2) of x, y in pixels.

    Pixel (0, 0) has its centre at (0.5, 0.5). Lines end where the map is NaN.
    """
    if min(values.shape) < 2:
        return []
    from contourpy import contour_generator

    z = np.ma.masked_invalid(values)
    if z.mask.all():
        return []
    return [np.asarray(line) + 0.5 for line in contour_generator(z=z).lines(level)]


def truth_paths(truth: np.ndarray, size: tuple[int, int]) -> list[np.ndarray]:
    """Return the closed outlines of a mask (H, W) or of boxes (n, 4), each (k, 2) of x, y."""
    truth = np.asarray(truth)
    if truth.shape == tuple(size):
        mask = np.zeros((size[0] + 2, size[1] + 2), np.float32)
        mask[1:-1, 1:-1] = truth > 0
        return [path - 1.0 for path in isolines(mask, 0.5)]
    if truth.size == 0:
        return []
    if truth.shape == (4,) or (truth.ndim == 2 and truth.shape[1] == 4):
        return [_box_path(box) for box in truth.reshape(-1, 4).tolist()]
    raise DataError(
        f"ground truth has shape {truth.shape}; expected a mask of the photo's {tuple(size)} "
        "(height, width), or boxes (n, 4) of left, top, right, bottom"
    )


def line_width(shape: Sequence[int]) -> float:
    """Return a line's width in pixels that looks alike on photos of any size."""
    return max(1.0, round(min(shape[:2]) / 200))


def _box_path(box: Iterable[float]) -> np.ndarray:
    left, top, right, bottom = box
    corners = [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]
    return np.array(corners, np.float64)


def _dashed(path: np.ndarray, dash: float, gap: float) -> list[np.ndarray]:
    """Return a path (n, 2) cut into dashes along its length."""
    lengths = np.hypot(*np.diff(path, axis=0).T)
    at = np.concatenate([[0.0], np.cumsum(lengths)])
    pieces = []
    for start in np.arange(0.0, at[-1], dash + gap):
        stop = min(start + dash, at[-1])
        between = path[(at > start) & (at < stop)]
        ends = [[np.interp(s, at, path[:, axis]) for axis in (0, 1)] for s in (start, stop)]
        pieces.append(np.concatenate([ends[:1], between, ends[1:]]))
    return pieces


def _draw(
    out: np.ndarray, paths: Sequence[np.ndarray], colour: tuple[int, int, int], width: float
) -> None:
    import cv2

    # OpenCV puts pixel (0, 0) at its centre; its coordinates are 16-bit after the shift
    scale = 1 << _SHIFT
    points = [np.rint((p - 0.5) * scale).astype(np.int32)[:, None] for p in paths if len(p) > 1]
    if points:
        cv2.polylines(
            out, points, False, colour, max(1, round(width)), lineType=cv2.LINE_AA, shift=_SHIFT
        )
