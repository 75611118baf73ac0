"""The colour bar under a panel or grid, with the range it stands for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from .colour import DEFAULT, DEFAULT_SIGNED, colourise
from .scaling import Scale
from .text import INK, SOFT, font, line_height, wrap

_THICK = 12


def number(value: float) -> str:
    """Return a value in three significant digits, with a true minus sign."""
    return f"{value:.3g}".replace("-", "−")


def span(scale: Scale) -> str:
    """Return the range of a scale in words, for a caption."""
    return f"{number(scale.low)} to {number(scale.high)}"


def bar_height(room: int, size: int, note: str) -> int:
    """Return the height in pixels of what `draw_bar` draws."""
    return _THICK + 8 + line_height(size) * (1 + len(wrap(note, size, room)))


def draw_bar(
    page: Image.Image,
    at: tuple[int, int],
    room: int,
    *,
    scale: Scale,
    ends: tuple[str, str],
    centre: str,
    note: str,
    size: int,
    colormap: str | None = None,
    ticks: Sequence[float] = (),
) -> None:
    """Draw a bar `room` pixels wide: its ends named, `ticks` at contour levels, a note below."""
    x, y = at
    name = colormap or (DEFAULT_SIGNED if scale.signed else DEFAULT)
    ramp = np.linspace(0.0, 1.0, room, dtype=np.float32)
    page.paste(Image.fromarray(np.tile(colourise(ramp, colormap=name), (_THICK, 1, 1))), at)
    draw = ImageDraw.Draw(page)
    for tick in ticks:
        across = x + round((0.5 + tick / 2 if scale.signed else tick) * (room - 1))
        draw.line((across, y, across, y + _THICK - 1), fill=(0, 0, 0), width=3)
        draw.line((across, y, across, y + _THICK - 1), fill=(255, 255, 255), width=1)
    y += _THICK + 4
    draw.text((x, y), ends[0], font=font(size), fill=INK)
    draw.text((x + room, y), ends[1], font=font(size), fill=INK, anchor="ra")
    if centre:
        draw.text((x + room // 2, y), centre, font=font(size), fill=INK, anchor="ma")
    y += line_height(size)
    for line in wrap(note, size, room):
        draw.text((x, y), line, font=font(size), fill=SOFT)
        y += line_height(size)
