"""A panel: the photo, the map over it and its contours, side by side, with all it takes to read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ..errors import DataError
from ..geometry import Geometry
from .bar import NARROWEST_BAR, Bar, number
from .contours import LEVELS, is_part
from .overlay import ALPHA
from .place import is_coarse
from .scaling import Scale
from .text import SOFT, line_height, wrap, write
from .tiles import (
    Tile,
    contour_paths,
    draw_contours,
    draw_ground,
    draw_map,
    draw_overlay,
    draw_photo,
)
from .vector import Cell, lay_out

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MARGIN, GAP = 16, 12
TITLE, TEXT = 16, 12
#: columns are at least this wide, so that captions under narrow photos are legible
NARROWEST = 180


def panel(
    tile: Tile,
    *,
    units: str = "",
    scale: Scale | None = None,
    colormap: str | None = None,
    alpha: float = ALPHA,
    levels: Sequence[float] = LEVELS,
    side: int = 360,
) -> Image.Image:
    """Return original, overlay and contours of one photo side by side, on white.

    Above stand the tile's title and caption, below a colour bar with the range in raw units, how
    it was chosen, and ticks at the contours' levels. A flat map says "no evidence".

    Args:
        tile: photo, raw map, geometry, title, caption and ground truth.
        units: of the map's values.
        scale: the range of the colours; None: that of this map.
        colormap: see `attnviz.render.COLORMAPS`; None: embers, or coolwarm if signed.
        alpha: opacity of the highest value over the photo, 0 to 1.
        levels: of the contours, as fractions of the scale.
        side: the longer side of each picture in pixels.

    Raises:
        DataError: there is no map, shapes do not fit, or the map holds infinite values.
    """
    scale = _scale(tile, scale)
    columns = _columns(tile, scale, colormap, alpha, levels, side)
    across = max(NARROWEST, columns[0][0].shape[1])
    tall = max(p.shape[0] for p, _ in columns)
    room = max(NARROWEST_BAR, len(columns) * across + (len(columns) - 1) * GAP)

    titles = wrap(tile.title, TITLE, room, bold=True, most=2) if tile.title else []
    captions = wrap(tile.caption, TEXT, room) if tile.caption else []
    below = [wrap(text, TEXT, across, most=2) for _, text in columns]
    bar = _bar(tile, scale, units, colormap, levels)
    low = line_height(TEXT) * max(map(len, below))
    height = (
        MARGIN
        + line_height(TITLE) * len(titles)
        + line_height(TEXT) * len(captions)
        + (8 if titles or captions else 0)
        + tall
        + (4 + low + 10)
        + (line_height(TEXT) if _flat(tile, scale) else bar.height(room, TEXT))
        + MARGIN
    )
    page = Image.new("RGB", (room + 2 * MARGIN, height), "white")
    y = write(page, (MARGIN, MARGIN), titles, TITLE, bold=True)
    y = write(page, (MARGIN, y), captions, TEXT, colour=SOFT) + (8 if titles or captions else 0)
    for index, (picture, _) in enumerate(columns):
        x = MARGIN + index * (across + GAP)
        page.paste(
            Image.fromarray(picture),
            (x + (across - picture.shape[1]) // 2, y + tall - len(picture)),
        )
        write(page, (x, y + tall + 4), below[index], TEXT, centred=across)
    y += tall + 4 + low + 10
    if _flat(tile, scale):
        write(page, (MARGIN, y), [bar.note], TEXT, colour=SOFT)
    else:
        bar.draw(page, (MARGIN, y), room, TEXT)
    return page


def panel_figure(
    tile: Tile,
    *,
    units: str = "",
    scale: Scale | None = None,
    colormap: str | None = None,
    alpha: float = ALPHA,
    levels: Sequence[float] = LEVELS,
    side: int = 640,
) -> Figure:
    """Return the same as a matplotlib figure: text, contours and bar are vectors in PDF and SVG.

    Args and errors as of `panel`.
    """
    scale = _scale(tile, scale)
    columns = _columns(tile, scale, colormap, alpha, levels, side)
    cells: list[Cell | None] = [(picture, "", text, ()) for picture, text in columns]
    bar = _bar(tile, scale, units, colormap, levels)
    if tile.photo is not None and tile.truth is None and bar.ticks and not _flat(tile, scale):
        paths = contour_paths(tile, scale, side, tuple(levels))
        cells[-1] = (draw_ground(tile, side), "", columns[-1][1], paths)
    flat = _flat(tile, scale)
    return lay_out(
        [cells], [] if flat else [bar], title=tile.title, caption=tile.caption,
        note=bar.note if flat else "",
    )  # fmt: skip


def _scale(tile: Tile, scale: Scale | None) -> Scale:
    return scale or Scale.of([_values(tile)])


def _columns(
    tile: Tile, scale: Scale, colormap: str | None, alpha: float, levels: Sequence[float], side: int
) -> list[tuple[np.ndarray, str]]:
    """The pictures and what stands below each."""
    truth = "; dashed: ground truth" if tile.truth is not None else ""
    over = draw_overlay(tile, scale, side, colormap, alpha)
    if tile.photo is None:
        return [(over, "map alone")]
    lines = draw_contours(tile, scale, side, tuple(levels)), _levels(levels, scale) + truth
    if tile.smoothed:  # contours of noise say nothing
        lines = draw_map(tile, scale, over.shape[1], colormap), "map alone"
    return [(draw_photo(tile, side), "photo"), (over, f"overlay{truth}"), lines]


def _bar(
    tile: Tile, scale: Scale, units: str, colormap: str | None, levels: Sequence[float]
) -> Bar:
    return Bar(
        scale=scale,
        ends=(number(scale.low), number(scale.high)),
        centre=units,
        note=_note(tile, scale),
        colormap=colormap,
        ticks=() if tile.photo is None or tile.smoothed else levels,
    )


def _flat(tile: Tile, scale: Scale) -> bool:
    return scale.is_flat(_values(tile))


def _values(tile: Tile) -> np.ndarray:
    if tile.values is None:
        raise DataError("a panel needs a map: tile.values is None")
    return tile.values


def _levels(levels: Sequence[float], scale: Scale) -> str:
    percent = ", ".join(f"{100 * level:.0f}" for level in levels)
    return f"contours at {percent} %{' of the positive side' if scale.signed else ''}"


def _drawn_on(tile: Tile) -> Geometry:
    if tile.geometry is not None:
        return tile.geometry
    return Geometry.identity(*(tile.photo if tile.photo is not None else _values(tile)).shape[:2])


def _note(tile: Tile, scale: Scale) -> str:
    if _flat(tile, scale):
        return f"no evidence: the map is flat at {number(float(np.nanmax(_values(tile))))}"
    parts = [f"scale: {scale.describe()}"]
    if tile.photo is not None:
        parts.append("opacity follows the value")
    if tile.smoothed:
        parts.append(f"smoothed over {tile.smoothed:.0f} cells, cut at 1 and 99 %")
    elif tile.values is not None and is_coarse(tile.values.shape, _drawn_on(tile)):
        parts.append("bicubic between the cells")
    if tile.photo is not None and tile.geometry is not None and is_part(tile.geometry):
        parts.append("thin frame: what the model saw")
    return " · ".join(parts)
