"""Charts as inline SVG: points with intervals, drawn by a few lines, readable in print."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

from ..statistics.intervals import Interval


@dataclass(frozen=True)
class _Layout:
    """Where a chart's parts are: `left` and `right` of the axis, labels and values at x."""

    name: str
    width: int
    left: int
    right: int
    row: int
    label: int
    value: int


#: pixels of a letter, on average
_LETTER = 7
_WIDE = _Layout("broad", 760, 250, 150, 26, 240, 624)
#: at its own size on a telephone: text above each row
_NARROW = _Layout("narrow", 360, 22, 22, 44, 0, 360)


@dataclass(frozen=True)
class ChartRow:
    """One row of a chart.

    Attributes:
        label: text at the left.
        interval: value with its ends.
        mark: a reference in the same units, such as chance, drawn as a hollow diamond.
        kind: CSS class: "object", "context", "elsewhere", "control" or "".
        second: another interval beneath (a control), drawn in grey.
    """

    label: str
    interval: Interval
    mark: float | None = None
    kind: str = ""
    second: Interval | None = None


def nice_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Return round numbers that cover [low, high]: steps of 1, 2 or 5 times a power of ten."""
    if not high > low:
        high = low + 1
    raw = (high - low) / most
    power = 10 ** math.floor(math.log10(raw))
    step = next(s * power for s in (1, 2, 5, 10) if s * power >= raw * 0.999)
    start = math.floor(low / step + 1e-9)
    stop = math.ceil(high / step - 1e-9)
    return [round(i * step, 10) for i in range(start, stop + 1)]


def intervals(
    bars: Sequence[ChartRow], *, title: str, unit: str = "", share: bool = False
) -> Markup:
    """Return a chart of values with intervals, one row each: SVG, wide and for narrow screens.

    Args:
        bars: the rows; those without a number are left out.
        title: what a screen reader says.
        unit: below the axis.
        share: the axis runs from 0 to 100 %.
    """
    bars = [b for b in bars if not math.isnan(b.interval.value)]
    if not bars:
        return Markup("")
    numbers = [0.0, 1.0] if share else [0.0]
    for bar in bars:
        for interval in (bar.interval, bar.second):
            if interval is not None:
                numbers += [interval.value, interval.low, interval.high]
    numbers = [n for n in numbers if not math.isnan(n)]
    ticks = nice_ticks(min(numbers), max(numbers))
    drawn = "".join(_drawn(bars, ticks, layout, title, share) for layout in (_WIDE, _NARROW))
    below = f'<p class="unit">{escape(unit)}</p>' if unit else ""
    return Markup(f'<div class="charts">{drawn}{below}</div>')


def _drawn(
    bars: Sequence[ChartRow], ticks: Sequence[float], layout: _Layout, title: str, share: bool
) -> str:
    """Return the rows and their axis as one SVG element."""

    def x(value: float) -> float:
        span = ticks[-1] - ticks[0]
        inner = layout.width - layout.left - layout.right
        return round(layout.left + (value - ticks[0]) / span * inner, 1)

    bottom = 12 + layout.row * len(bars)
    parts = [
        f'<svg viewBox="0 0 {layout.width} {bottom + 24}" role="img" class="chart {layout.name}">'
        f"<title>{escape(title)}</title>"
    ]
    for tick in ticks:
        zero = " zero" if tick == 0 else ""
        text = f"{100 * tick:.0f} %" if share else f"{tick:g}"
        parts.append(
            f'<line class="grid{zero}" x1="{x(tick)}" x2="{x(tick)}" y1="8" y2="{bottom}"/>'
            f'<text class="tick" x="{x(tick)}" y="{bottom + 15}">{text}</text>'
        )
    for row, bar in enumerate(bars):
        top = 12 + layout.row * row
        y = top + layout.row - 13
        # beside the row where there is room, else above it
        line = y + 4 if layout is _WIDE else top + 14
        room = layout.label if layout is _WIDE else layout.width - 130
        # a name that is too long is drawn narrower, not cut
        fit = f' textLength="{room}" lengthAdjust="spacingAndGlyphs"' * (
            _LETTER * len(bar.label) > room
        )
        parts.append(
            f'<text class="label" x="{layout.label}" y="{line}"{fit}>{escape(bar.label)}</text>'
        )
        if bar.second is not None and not math.isnan(bar.second.value):
            parts.append(_whisker(bar.second, x, y + 7, "control", share))
        parts.append(_whisker(bar.interval, x, y - (2 if bar.second else 0), bar.kind, share))
        if bar.mark is not None:
            m = x(bar.mark)
            parts.append(
                f'<path class="chance" d="M{m} {y - 6}L{m + 6} {y}L{m} {y + 6}L{m - 6} {y}Z">'
                f"<title>chance {_text(bar.mark, share)}</title></path>"
            )
        value = _text(bar.interval.value, share)
        if not math.isnan(bar.interval.low):
            low, high = _text(bar.interval.low, share), _text(bar.interval.high, share)
            value += f"  [{low}, {high}]".replace(" %,", ",")
        parts.append(f'<text class="value" x="{layout.value}" y="{line}">{escape(value)}</text>')
    return "".join(parts) + "</svg>"


def _whisker(
    interval: Interval, x: Callable[[float], Any], y: float, kind: str, share: bool
) -> str:
    dot = f'<circle class="dot {escape(kind)}" cx="{x(interval.value)}" cy="{y}" r="4.5"/>'
    if math.isnan(interval.low):
        return dot
    return (
        f'<line class="whisker {escape(kind)}" x1="{x(interval.low)}" x2="{x(interval.high)}" '
        f'y1="{y}" y2="{y}"/>{dot}'
    )


def _text(value: float, share: bool) -> str:
    if share:
        return f"{100 * value:.0f} %"
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"
