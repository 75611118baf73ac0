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

    The higher the level, the wider the line.

    Args:
        photo: (H, W, 3) uint8 RGB.
        values: (h, w) map scaled to [0, 1]; NaN is outside.
        geometry: the place of the model's input; None: the map covers the photo.
        signed: 0.5 is zero; the levels are fractions of the positive half.
        levels: where to draw, each above 0 and below 1.
        width: of the white line at level 0.5, in pixels; None: by the photo's size.

    Raises:
        DataError: a level out of range.
    """
    if not all(0.0 < level < 1.0 for level in levels):
        raise DataError(f"levels are {list(levels)}; expected each above 0 and below 1")
    out = np.array(photo, order="C")
    placed = place(values, geometry or Geometry.identity(*photo.shape[:2]))
    if signed:
        placed = 2.0 * placed - 1.0
    thick = width or line_width(photo.shape)
    lines = [(isolines(placed, level), thick * (0.6 + 0.8 * level)) for level in levels]
    for paths, wide in lines:  # all halos first: none may cut another level's line
        _draw(out, paths, BLACK, max(1, round(wide)) + max(2.0, thick))
    for paths, wide in lines:
        _draw(out, paths, WHITE, wide)
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
    thick = width or max(1.0, round(0.8 * line_width(photo.shape)))
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


def frame(photo: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Return a copy of the photo with a thin line round the model's crop, if it is a part.

    The line is the photo made lighter where it is dark and darker where it is light: to be seen
    on any photo, and never to be taken for a contour.
    """
    import cv2

    out = np.array(photo, order="C")
    if not is_part(geometry):
        return out
    left, top, right, bottom = geometry.crop
    rows, columns = geometry.image_size
    line = np.zeros((rows, columns), np.uint8)
    first, last = (round(left), round(top)), (round(right) - 1, round(bottom) - 1)
    cv2.rectangle(line, first, last, 1, max(1, min(rows, columns) // 400))
    at = line > 0
    # lighter or darker is decided by the neighbourhood, or texture would break the line up
    around = cv2.blur(cv2.cvtColor(out, cv2.COLOR_RGB2GRAY), (31, 31))[at][:, None].astype(int)
    out[at] = np.where(around > 128, around - 100, around + 100)
    return out


def is_part(geometry: Geometry) -> bool:
    """Return whether the model saw only a part of the photo, by half a pixel or more."""
    left, top, right, bottom = geometry.crop
    rows, columns = geometry.image_size
    return left >= 0.5 or top >= 0.5 or right <= columns - 0.5 or bottom <= rows - 0.5


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
    return max(1.0, round(min(shape[:2]) / 120))


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
    for closed in (False, True):
        points = []
        for path in paths:
            if len(path) < 2 or np.array_equal(path[0], path[-1]) != closed:
                continue
            # an isoline has a point at every pixel's edge, and each costs a wide line a cap
            path = (path[: -1 if closed else None] - 0.5).astype(np.float32)
            path = cv2.approxPolyDP(path, 0.2, closed)
            points.append(np.rint(path * scale).astype(np.int32))
        if points:
            cv2.polylines(out, points, closed, colour, max(1, round(width)), cv2.LINE_AA, _SHIFT)
