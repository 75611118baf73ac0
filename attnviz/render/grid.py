"""A grid of overlays: classes, layers, methods or photos beside one another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from PIL import Image

from ..errors import DataError
from .bar import NARROWEST_BAR, Bar, number, span
from .contours import is_part
from .overlay import ALPHA
from .panel import GAP, MARGIN, TEXT, TITLE
from .scaling import Scale
from .text import SOFT, line_height, wrap, write
from .tiles import Tile, draw_overlay, draw_photo
from .vector import Cell, lay_out

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NARROWEST = 120
NOTHING = "no evidence: all maps are flat"


def grid(
    rows: Sequence[Sequence[Tile | None]],
    *,
    title: str = "",
    units: str = "",
    shared: bool = True,
    mode: str | None = None,
    colormap: str | None = None,
    alpha: float = ALPHA,
    side: int = 220,
) -> Image.Image:
    """Return tiles in rows and columns on white, each with its title above and caption below.

    Below all stands a colour bar: with the range in raw units if the scale is shared, else
    saying that each map has its own, whose range is then added to its caption.

    Args:
        rows: the tiles; a tile without a map shows its photo alone, None leaves a gap.
        title: above everything.
        units: of the maps' values.
        shared: one scale for all maps, so that equal colours are equal values; else one a map.
        mode: how a scale is chosen, see `Heatmaps.normalized`; None: "signed" where the maps have
            negative values, else "minmax"; decided for all maps of a shared scale together, else
            for each.
        colormap: see `attnviz.render.COLORMAPS`; None: embers, or coolwarm if signed.
        alpha: opacity of the highest value over the photo, 0 to 1.
        side: the longer side of each picture in pixels.

    Raises:
        DataError: there is no map, shapes do not fit, or a map holds infinite values.
    """
    sheet = _drawn(rows, units, shared, mode, colormap, alpha, side)
    cells, bars, flat = sheet.cells, sheet.bars, sheet.flat
    columns = max(len(row) for row in cells)
    across = max(_NARROWEST, *(c[0].shape[1] for row in cells for c in row if c))
    room = max(NARROWEST_BAR, columns * across + (columns - 1) * GAP)

    heads = wrap(title, TITLE, room, bold=True, most=2) if title else []
    laid = [_measure(row, across) for row in cells]
    height = (
        MARGIN
        + (line_height(TITLE) * len(heads) + 8 if heads else 0)
        + sum(above + tall + below + GAP for above, tall, below, _, _ in laid)
        + (line_height(TEXT) if flat else sum(bar.height(room, TEXT) + 4 for bar in bars))
        + MARGIN
    )
    page = Image.new("RGB", (room + 2 * MARGIN, height), "white")
    y = write(page, (MARGIN, MARGIN), heads, TITLE, bold=True) + (8 if heads else 0)
    for row, (above, tall, below, tops, bottoms) in zip(cells, laid, strict=True):
        for index, cell in enumerate(row):
            if cell is None:
                continue
            x, picture = MARGIN + index * (across + GAP), cell[0]
            lift = above - 3 - line_height(TEXT) * len(tops[index])
            write(page, (x, y + lift), tops[index], TEXT, bold=True, centred=across)
            left = x + (across - picture.shape[1]) // 2
            page.paste(Image.fromarray(picture), (left, y + above + tall - len(picture)))
            write(
                page, (x, y + above + tall + 3), bottoms[index], TEXT, colour=SOFT, centred=across
            )
        y += above + tall + below + GAP
    if flat:
        write(page, (MARGIN, y), [NOTHING], TEXT, colour=SOFT)
    else:
        for bar in bars:
            bar.draw(page, (MARGIN, y), room, TEXT)
            y += bar.height(room, TEXT) + 4
    return page


def grid_figure(
    rows: Sequence[Sequence[Tile | None]],
    *,
    title: str = "",
    units: str = "",
    shared: bool = True,
    mode: str | None = None,
    colormap: str | None = None,
    alpha: float = ALPHA,
    side: int = 600,
) -> Figure:
    """Return the same as a matplotlib figure: text and bar are vectors in PDF and SVG.

    Args and errors as of `grid`.
    """
    sheet = _drawn(rows, units, shared, mode, colormap, alpha, side)
    return lay_out(
        sheet.cells, [] if sheet.flat else sheet.bars, title=title,
        note=NOTHING if sheet.flat else "",
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Sheet:
    """The pictures of a grid with their words, its bars, and whether there is nothing to see."""

    cells: list[list[Cell | None]]
    bars: list[Bar]
    flat: bool


def _drawn(
    rows: Sequence[Sequence[Tile | None]], units: str, shared: bool, mode: str | None,
    colormap: str | None, alpha: float, side: int,
) -> _Sheet:  # fmt: skip
    tiles = [tile for row in rows for tile in row if tile is not None]
    maps = [tile.values for tile in tiles if tile.values is not None]
    if not maps:
        raise DataError("a grid needs at least one map")
    scales = [Scale.of(maps, mode)] if shared else [Scale.of([m], mode) for m in maps]
    own = iter(scales * len(maps) if shared else scales)
    cells = [[_cell(t, own, shared, colormap, alpha, side) for t in row] for row in rows]
    notes = ["opacity follows the value"]
    if any(t.smoothed for t in tiles):
        notes.append("maps of single pixels smoothed, cut at 1 and 99 %")
    if any(t.geometry is not None and is_part(t.geometry) for t in tiles):
        notes.append("thin frame: what the model saw")
    bars = _bars(scales, shared, units, " · ".join(notes), colormap)
    return _Sheet(cells, bars, shared and scales[0].flat)


def _bars(
    scales: Sequence[Scale], shared: bool, units: str, note: str, colormap: str | None
) -> list[Bar]:
    """One bar for all maps, or one for each kind of scale: signed ones have other colours."""
    if shared:
        scale = scales[0]
        ends = (number(scale.low), number(scale.high))
        note = f"one scale for all maps: {scale.describe()} · {note}"
        return [Bar(scale=scale, ends=ends, centre=units, note=note, colormap=colormap)]
    kinds = {scale.mode: scale for scale in reversed(scales)}
    whose = "each map on its own scale" if len(kinds) == 1 else "each such map on its own scale"
    ends = ("low", "high")
    bars = [
        Bar(scale=s, ends=("−", "+") if s.signed else ends, centre=units, colormap=colormap,
            note=f"{whose}: {replace(s, nearly=False).describe()}")
        for s in kinds.values()
    ]  # fmt: skip
    return [*bars[:-1], replace(bars[-1], note=f"{bars[-1].note} · {note}")]


def _cell(
    tile: Tile | None, scales: Iterator[Scale], shared: bool, colormap: str | None, alpha: float,
    side: int,
) -> Cell | None:  # fmt: skip
    if tile is None:
        return None
    if tile.values is None:
        return draw_photo(tile, side), tile.title, tile.caption, ()
    scale = next(scales)
    caption = tile.caption
    if not shared and not scale.flat:
        nearly = " · nearly flat" if scale.nearly else ""
        caption = f"{caption}\n{span(scale)}{nearly}".strip()
    return draw_overlay(tile, scale, side, colormap, alpha), tile.title, caption, ()


def _measure(
    row: Sequence[Cell | None], across: int
) -> tuple[int, int, int, list[list[str]], list[list[str]]]:
    """Return the heights above, of and below a row's pictures, and their wrapped texts."""
    tops = [wrap(c[1], TEXT, across, bold=True, most=2) if c and c[1] else [] for c in row]
    bottoms = [wrap(c[2], TEXT, across) if c and c[2] else [] for c in row]
    high = line_height(TEXT) * max(map(len, tops), default=0)
    low = line_height(TEXT) * max(map(len, bottoms), default=0)
    tall = max((len(c[0]) for c in row if c), default=0)
    return high + (3 if high else 0), tall, low + 3, tops, bottoms
