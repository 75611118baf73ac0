"""Lines over a photo: contours of a map, ground truth, and the edge of what the model saw."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from ..errors import DataError
from ..geometry import Geometry
from .place import place
from .text import font

#: fractions of the scale at which contours are drawn
LEVELS = (0.2, 0.5, 0.8)

WHITE, BLACK = (255, 255, 255), (0, 0, 0)
#: ground truth: far from every colour of the maps, also for colour-blind readers
TRUTH = (0, 255, 255)

_SHIFT = 4  # OpenCV draws at 1/16 pixel
_FINE = 3  # lines are drawn so many times larger, for widths of fractions of a pixel

#: how much a contour's halo darkens the photo
HALO = 0.55


def contours(
    photo: np.ndarray,
    values: np.ndarray,
    *,
    geometry: Geometry | None = None,
    signed: bool = False,
    levels: Sequence[float] = LEVELS,
    width: float | None = None,
    labels: bool = False,
) -> np.ndarray:
    """Return a copy of the photo with lines of equal value: white on a soft dark halo.

    The map is interpolated as in `overlay`. The higher the level, the wider the line; lines fade
    where they meet the edge of what the model saw.

    Args:
        photo: (H, W, 3) uint8 RGB.
        values: (h, w) map scaled to [0, 1]; NaN is outside.
        geometry: the place of the model's input; None: the map covers the photo.
        signed: 0.5 is zero; the levels are fractions of the positive half.
        levels: where to draw, each above 0 and below 1.
        width: of the white line at level 0.5, in pixels; None: by the photo's size.
        labels: write each level, in per cent, on its longest line.

    Raises:
        DataError: a level out of range.
    """
    if not all(0.0 < level < 1.0 for level in levels):
        raise DataError(f"levels are {list(levels)}; expected each above 0 and below 1")
    geometry = geometry or Geometry.identity(*photo.shape[:2])
    placed = place(values, geometry, smooth=True)
    if signed:
        placed = 2.0 * placed - 1.0
    thick = width or contour_width(photo.shape)
    lines = [(level, isolines(placed, level)) for level in levels]
    halo, white = (np.zeros(photo.shape[:2], np.float32) for _ in range(2))
    for level, paths in lines:
        wide = thick * (0.4 + 1.2 * level)
        np.maximum(halo, _coverage(photo.shape, paths, wide + 2.0 * thick), out=halo)
        np.maximum(white, _coverage(photo.shape, paths, wide), out=white)
    fade = _inside(placed, 4.0 * thick)
    out = photo * (1.0 - HALO * halo * fade)[..., None]
    out += (255.0 - out) * (white * fade)[..., None]
    drawn = np.rint(out).astype(np.uint8)
    return _labelled(drawn, lines, fade) if labels else drawn


def _coverage(shape: Sequence[int], paths: Sequence[np.ndarray], width: float) -> np.ndarray:
    """Return how much of each pixel lines of a width cover, (H, W) in 0 to 1."""
    import cv2

    fine = np.zeros((_FINE * shape[0], _FINE * shape[1]), np.uint8)
    _draw(fine, [path * _FINE for path in paths], 255, width * _FINE)
    return cv2.resize(fine, (shape[1], shape[0]), interpolation=cv2.INTER_AREA) / np.float32(255)


def _inside(placed: np.ndarray, ramp: float) -> np.ndarray:
    """Return 1 well inside what the model saw, falling to 0 at its edge."""
    import cv2

    seen = np.zeros((placed.shape[0] + 2, placed.shape[1] + 2), np.uint8)
    seen[1:-1, 1:-1] = ~np.isnan(placed)
    distance = cv2.distanceTransform(seen, cv2.DIST_L2, 3)[1:-1, 1:-1]
    return np.clip((distance - 0.5) / ramp, 0.0, 1.0)


def _labelled(
    drawn: np.ndarray, lines: Sequence[tuple[float, list[np.ndarray]]], fade: np.ndarray
) -> np.ndarray:
    """Write each level on its longest line, where it is well inside and covers no other label."""
    from PIL import Image, ImageDraw

    size = round(min(drawn.shape[:2]) / 28)
    if size < 8:
        return drawn
    picture = Image.fromarray(drawn)
    draw, taken = ImageDraw.Draw(picture), []
    for level, paths in lines:
        text = f"{100 * level:.0f}"
        for path in sorted(paths, key=len, reverse=True)[:1]:
            for x, y in path[np.linspace(0, len(path) - 1, 24).astype(int)][np.r_[6:24, :6]]:
                row, column = (min(int(v), n - 1) for v, n in zip((y, x), fade.shape, strict=True))
                free = all(abs(x - a) > 2 * size or abs(y - b) > 1.5 * size for a, b in taken)
                if free and fade[row, column] == 1.0:
                    draw.text(
                        (x, y), text, font=font(size, bold=True), fill=WHITE, anchor="mm",
                        stroke_width=max(2, size // 5), stroke_fill=(40, 40, 40),
                    )  # fmt: skip
                    taken.append((x, y))
                    break
    return np.asarray(picture)


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
    """Return a copy of the photo with a hairline round the model's crop, if it is a part.

    A light line with a dark one inside it, both half transparent: to be seen on any photo, and
    never to be taken for a contour.
    """
    import cv2

    out = np.array(photo, order="C")
    if not is_part(geometry):
        return out
    left, top, right, bottom = geometry.crop
    wide = max(1, min(geometry.image_size) // 600)
    for inset, tone in ((0, 255), (wide, 0)):
        line = np.zeros(geometry.image_size, np.uint8)
        first = (round(left) + inset, round(top) + inset)
        last = (round(right) - 1 - inset, round(bottom) - 1 - inset)
        cv2.rectangle(line, first, last, 1, wide)
        at = line > 0
        out[at] = np.rint(0.45 * out[at] + 0.55 * tone).astype(np.uint8)
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


def contour_width(shape: Sequence[int]) -> float:
    """Return the width in pixels of a contour at half the scale, alike on photos of any size."""
    return max(1.0, min(shape[:2]) / 240)


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
    out: np.ndarray,
    paths: Sequence[np.ndarray],
    colour: int | tuple[int, int, int],
    width: float,
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
