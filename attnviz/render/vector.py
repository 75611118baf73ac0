"""Panels and grids for papers: text, contours and colour bar as vectors, photos as pictures."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .bar import Bar
from .colour import DEFAULT, DEFAULT_SIGNED, colourise
from .text import wrap

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: a level and its lines, each (n, 2) of x, y in pixels of the picture
Paths = Sequence[tuple[float, Sequence[np.ndarray]]]
#: a picture (H, W, 3), the text above and below it, and lines over it
Cell = tuple[np.ndarray, str, str, Paths]

FORMATS = ("pdf", "svg")
#: width of a figure in inches: two columns of most journals; of one narrow picture, one column
WIDTH, COLUMN = 7.2, 3.5
TITLE, TEXT = 9.0, 7.0  # points
INK, SOFT = "#1c1c1e", "#5f5f64"
_GAP, _MARGIN, _BAR = 0.08, 0.08, 0.09  # inches
_FINE = 10  # text is measured so many times larger


def lay_out(
    rows: Sequence[Sequence[Cell | None]],
    bars: Sequence[Bar],
    *,
    title: str = "",
    caption: str = "",
    note: str = "",
) -> Figure:
    """Return pictures in rows with their words and the bars below, as a matplotlib figure.

    Args:
        rows: of cells, None where a place stays empty.
        bars: drawn below one another.
        title, caption: above everything.
        note: below everything, instead of bars that would show nothing.
    """
    from matplotlib.figure import Figure

    columns = max(len(row) for row in rows)
    width = WIDTH if columns > 1 else COLUMN
    room = width - 2 * _MARGIN
    across = (room - (columns - 1) * _GAP) / columns
    heads = [(_fold(title, TITLE, room, bold=True), TITLE, "bold", INK)] if title else []
    heads += [(_fold(caption, TEXT, room), TEXT, "normal", SOFT)] if caption else []
    laid = []
    for row in rows:
        cells = [cell for cell in row if cell is not None]
        tops = max((len(_fold(c[1], TEXT, across, bold=True)) for c in cells if c[1]), default=0)
        bottoms = max((len(_fold(c[2], TEXT, across)) for c in cells if c[2]), default=0)
        tall = max((across * c[0].shape[0] / c[0].shape[1] for c in cells), default=0.0)
        laid.append((tops * _line(TEXT), min(tall, 2 * across), bottoms * _line(TEXT) + 0.02))
    ends = [(bar, _fold(bar.note, TEXT, room)) for bar in bars]
    height = (
        2 * _MARGIN
        + sum(len(lines) * _line(size) for lines, size, _, _ in heads)
        + sum(sum(parts) + _GAP for parts in laid)
        + sum(_BAR + 0.03 + (1 + len(lines)) * _line(TEXT) for _, lines in ends)
        + (_line(TEXT) if note else 0.0)
    )
    figure = Figure(figsize=(width, height))
    sheet = _FigureSheet(figure, width, height)
    y = _MARGIN
    for lines, size, weight, colour in heads:
        y = sheet.write(lines, _MARGIN, y, size, weight=weight, colour=colour)
    for row, (above, tall, below) in zip(rows, laid, strict=True):
        for index, cell in enumerate(row):
            if cell is None:
                continue
            x, (picture, top, bottom, paths) = _MARGIN + index * (across + _GAP), cell
            lines = _fold(top, TEXT, across, bold=True) if top else []
            lift = above - len(lines) * _line(TEXT)
            sheet.write(lines, x + across / 2, y + lift, TEXT, weight="bold", centred=True)
            shape = picture.shape
            wide = min(across, tall * shape[1] / shape[0])
            high = wide * shape[0] / shape[1]
            ax = sheet.axes(x + (across - wide) / 2, y + above + tall - high, wide, high)
            ax.imshow(picture, interpolation="none", aspect="auto")
            _draw(ax, paths)
            lines = _fold(bottom, TEXT, across) if bottom else []
            sheet.write(lines, x + across / 2, y + above + tall + 0.02, TEXT, centred=True)
        y += above + tall + below + _GAP
    for bar, lines in ends:
        y = _draw_bar(sheet, bar, lines, room, y)
    if note:
        sheet.write([note], _MARGIN, y, TEXT, colour=SOFT)
    return figure


def encoded(figure: Figure, suffix: str) -> bytes:
    """Return a figure as a file of that ending holds it, the same bytes for the same figure.

    In PDF the text stays text, in a TrueType font; in SVG it stays text too.
    """
    from matplotlib import rc_context

    buffer = io.BytesIO()
    kind = suffix.lstrip(".").lower()
    date = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(kind)
    text: dict[Any, Any] = {"pdf.fonttype": 42, "svg.fonttype": "none", "svg.hashsalt": "attnviz"}
    with rc_context(text):
        figure.savefig(buffer, format=kind, metadata=date, dpi=300)
    return buffer.getvalue()


class _FigureSheet:
    """A figure written on in inches from its top left."""

    def __init__(self, figure: Figure, width: float, height: float) -> None:
        self.figure, self.width, self.height = figure, width, height

    def axes(self, x: float, y: float, width: float, height: float) -> Axes:
        box = (x / self.width, 1 - (y + height) / self.height,
               width / self.width, height / self.height)  # fmt: skip
        ax = self.figure.add_axes(box)
        ax.set_axis_off()
        return ax

    def write(
        self, lines: Sequence[str], x: float, y: float, size: float, *, weight: str = "normal",
        colour: str = INK, centred: bool = False, right: bool = False,
    ) -> float:  # fmt: skip
        """Write lines below one another; returns the y below them."""
        side = "center" if centred else "right" if right else "left"
        for line in lines:
            self.figure.text(
                x / self.width, 1 - y / self.height, line, fontsize=size, fontweight=weight,
                color=colour, ha=side, va="top", family="DejaVu Sans", parse_math=False,
            )  # fmt: skip
            y += _line(size)
        return y


def _draw(ax: Axes, paths: Paths) -> None:
    """Draw contours: white on a dark halo, the higher the wider, each with its level."""
    from matplotlib.patheffects import Normal, Stroke

    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    for level, lines in paths:
        thick = 0.9 * (0.4 + 1.2 * level)
        halo = [Stroke(linewidth=thick + 1.6, foreground="black", alpha=0.55), Normal()]
        for line in lines:
            ax.plot(*(line.T - 0.5), color="white", lw=thick, path_effects=halo)
        if lines:
            longest = max(lines, key=len)
            x, y = longest[len(longest) // 4] - 0.5
            ax.text(
                x, y, f"{100 * level:.0f}", color="white", fontsize=6, ha="center", va="center",
                fontweight="bold", clip_on=True,
                path_effects=[Stroke(linewidth=1.6, foreground="#282828"), Normal()],
            )  # fmt: skip
    ax.set_xlim(left, right)
    ax.set_ylim(bottom, top)


def _draw_bar(sheet: _FigureSheet, bar: Bar, lines: Sequence[str], room: float, y: float) -> float:
    name = bar.colormap or (DEFAULT_SIGNED if bar.scale.signed else DEFAULT)
    ax = sheet.axes(_MARGIN, y, room, _BAR)
    ramp = colourise(np.linspace(0.0, 1.0, 256, dtype=np.float32), colormap=name)
    ax.imshow(ramp[None], aspect="auto", extent=(0.0, 1.0, 0.0, 1.0), interpolation="nearest")
    for tick in bar.ticks:
        at = 0.5 + tick / 2 if bar.scale.signed else tick
        for colour, thick in (("black", 1.6), ("white", 0.7)):
            ax.plot([at, at], [0, 1], color=colour, lw=thick)
    ax.set_xlim(0.0, 1.0)
    y += _BAR + 0.03
    sheet.write(bar.ends[:1], _MARGIN, y, TEXT)
    sheet.write(bar.ends[1:], _MARGIN + room, y, TEXT, right=True)
    sheet.write([bar.centre], _MARGIN + room / 2, y, TEXT, centred=True)
    return sheet.write(lines, _MARGIN, y + _line(TEXT), TEXT, colour=SOFT)


def _line(size: float) -> float:
    return 1.35 * size / 72


def _fold(text: str, size: float, room: float, *, bold: bool = False) -> list[str]:
    return wrap(text, round(size * _FINE), round(room * 72 * _FINE), bold=bold, most=4)
