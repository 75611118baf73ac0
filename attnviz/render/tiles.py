"""One picture of a panel or grid: a photo, its map, and the words about it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import DataError
from ..geometry import Geometry
from .colour import DEFAULT, DEFAULT_SIGNED, colourise
from .contours import LEVELS, contours, frame, isolines, truth_outline
from .overlay import ALPHA, DESATURATE, desaturation, overlay
from .place import place, scaled
from .scaling import Scale
from .text import stamp

#: photos enlarged more than this show their pixels instead of a blur
_PIXELATED = 4.0


@dataclass(frozen=True, eq=False)
class Tile:
    """A photo with a raw map, to be drawn in a panel or grid.

    Attributes:
        photo: (H, W, 3) uint8 RGB; None: the map is drawn alone.
        values: (h, w) raw map; None: the photo is drawn alone.
        geometry: the place of the model's input on the photo; None: the map covers it.
        title: text above.
        caption: text below.
        smoothed: over how many of its cells the map was smoothed for drawing; 0: not at all.
        truth: ground truth on the photo: a mask (H, W) or boxes (n, 4) of left, top, right,
            bottom, right and bottom exclusive. None: none known.
    """

    photo: np.ndarray | None
    values: np.ndarray | None = None
    geometry: Geometry | None = None
    title: str = ""
    caption: str = ""
    truth: np.ndarray | None = None
    smoothed: float = 0.0


def draw_photo(tile: Tile, side: int) -> np.ndarray:
    """Return the photo alone, its longer side `side` pixels."""
    if tile.photo is None:
        return draw_map(tile, Scale(0.0, 1.0, "none", True), side)
    return fit(tile.photo, side)


def draw_overlay(
    tile: Tile, scale: Scale, side: int, colormap: str | None = None, alpha: float = ALPHA
) -> np.ndarray:
    """Return map and ground truth over the photo, its longer side `side` pixels."""
    if tile.photo is None:
        return draw_map(tile, scale, side, colormap)
    if tile.values is None:
        return _truth(tile, fit(tile.photo, side))
    photo = fit(tile.photo, side)
    geometry = _geometry(tile, photo)
    shown = scale.apply(tile.values)
    out = overlay(
        photo, shown, geometry=geometry, signed=scale.signed, colormap=colormap, alpha=alpha
    )
    out = _truth(tile, frame(out, geometry))
    return stamp(out) if np.isnan(shown).all() else out


def draw_contours(
    tile: Tile, scale: Scale, side: int, levels: tuple[float, ...] = LEVELS
) -> np.ndarray:
    """Return contours and ground truth over the grey photo, its longer side `side` pixels."""
    if tile.photo is None or tile.values is None:
        return draw_overlay(tile, scale, side)
    out, geometry = draw_ground(tile, side), _geometry(tile, fit(tile.photo, side))
    shown = scale.apply(tile.values)
    if np.isnan(shown).all():
        return stamp(_truth(tile, out))
    out = contours(out, shown, geometry=geometry, signed=scale.signed, levels=levels, labels=True)
    return _truth(tile, out)


def draw_ground(tile: Tile, side: int) -> np.ndarray:
    """Return what contours are drawn on: the photo, half grey, and the frame of the crop."""
    import cv2

    if tile.photo is None:
        raise DataError("contours are drawn on a photo: tile.photo is None")
    photo = fit(tile.photo, side)
    return frame(cv2.transform(photo, desaturation(DESATURATE)), _geometry(tile, photo))


def contour_paths(
    tile: Tile, scale: Scale, side: int, levels: tuple[float, ...] = LEVELS
) -> list[tuple[float, list[np.ndarray]]]:
    """Return each level with its lines, (n, 2) of x, y in pixels of a photo of that side."""
    if tile.photo is None or tile.values is None:
        return []
    placed = place(scale.apply(tile.values), _geometry(tile, fit(tile.photo, side)), smooth=True)
    placed = 2.0 * placed - 1.0 if scale.signed else placed
    return [(level, isolines(placed, level)) for level in levels]


def draw_map(tile: Tile, scale: Scale, side: int, colormap: str | None = None) -> np.ndarray:
    """Return the map alone in colour, enlarged smoothly; what the model did not see is grey."""
    if tile.values is None:
        return np.full((side, side, 3), 235, np.uint8)
    size = tile.geometry.input_size if tile.geometry else tile.values.shape
    rows, columns = fitted(size, side)
    shown = scale.apply(tile.values)
    name = colormap or (DEFAULT_SIGNED if scale.signed else DEFAULT)
    if np.isnan(shown).all():
        return stamp(np.full((rows, columns, 3), 128, np.uint8))
    return colourise(place(shown, Geometry.identity(rows, columns), smooth=True), colormap=name)


def fit(photo: np.ndarray, side: int) -> np.ndarray:
    """Return a photo with its longer side `side` pixels; the same values if it has that size."""
    import cv2

    rows, columns = fitted(photo.shape[:2], side)
    if (rows, columns) == photo.shape[:2]:
        return photo
    factor = side / max(photo.shape[:2])
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    if factor > _PIXELATED:
        how = cv2.INTER_NEAREST
    return cv2.resize(photo, (columns, rows), interpolation=how)


def fitted(size: tuple[int, ...], side: int) -> tuple[int, int]:
    """Return a height and width of the same shape whose longer side is `side` pixels."""
    factor = side / max(size)
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def _geometry(tile: Tile, photo: np.ndarray) -> Geometry:
    size = photo.shape[:2]
    return scaled(tile.geometry, size) if tile.geometry else Geometry.identity(*size)


def _truth(tile: Tile, picture: np.ndarray) -> np.ndarray:
    if tile.truth is None or tile.photo is None:
        return picture
    return truth_outline(picture, tile.truth, size=tile.photo.shape[:2])
