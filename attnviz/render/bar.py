"""The colour bar under a panel or grid, with the range it stands for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from .colour import DEFAULT, DEFAULT_SIGNED, colourise
from .scaling import Scale
from .text import INK, SOFT, font, line_height, width, wrap, write

_THICK = 12


def number(value: float) -> str:
    """Return a value in three significant digits, with a true minus sign."""
    return f"{value:.3g}".replace("-", "−")


def span(scale: Scale) -> str:
    """Return the range of a scale in words, for a caption."""
    return f"{number(scale.low)} to {number(scale.high)}"


#: a bar is at least this wide, so that what stands at its ends does not meet
NARROWEST_BAR = 260


@dataclass(frozen=True)
class Bar:
    """A colour bar with the words below it.

    Attributes:
        scale: what it shows.
        ends: text at its low and high end.
        centre: text in the middle: the units.
        note: text below.
        colormap: its colours; None: embers, or coolwarm if signed.
        ticks: fractions of the scale (of its positive half if signed) that are marked.
    """

    scale: Scale
    ends: tuple[str, str]
    centre: str
    note: str
    colormap: str | None = None
    ticks: Sequence[float] = ()

    def lines(self, room: int, size: int) -> list[str]:
        """Return the lines of the note; the units come first where they have no room above."""
        note = self.note if self._fits(room, size) else f"{self.centre} · {self.note}"
        return wrap(note, size, room)

    def height(self, room: int, size: int) -> int:
        """Return the height in pixels of what `draw` draws."""
        return _THICK + 8 + line_height(size) * (1 + len(self.lines(room, size)))

    def draw(self, page: Image.Image, at: tuple[int, int], room: int, size: int) -> None:
        """Draw the bar, `room` pixels wide, with its top left at a point."""
        x, y = at
        name = self.colormap or (DEFAULT_SIGNED if self.scale.signed else DEFAULT)
        ramp = colourise(np.linspace(0.0, 1.0, room, dtype=np.float32), colormap=name)
        page.paste(Image.fromarray(np.tile(ramp, (_THICK, 1, 1))), at)
        draw = ImageDraw.Draw(page)
        for tick in self.ticks:
            across = x + round((0.5 + tick / 2 if self.scale.signed else tick) * (room - 1))
            draw.line((across, y, across, y + _THICK - 1), fill=(0, 0, 0), width=3)
            draw.line((across, y, across, y + _THICK - 1), fill=(255, 255, 255), width=1)
        y += _THICK + 4
        draw.text((x, y), self.ends[0], font=font(size), fill=INK)
        draw.text((x + room, y), self.ends[1], font=font(size), fill=INK, anchor="ra")
        if self._fits(room, size):
            draw.text((x + room // 2, y), self.centre, font=font(size), fill=INK, anchor="ma")
        write(page, (x, y + line_height(size)), self.lines(room, size), size, colour=SOFT)

    def _fits(self, room: int, size: int) -> bool:
        longest = max(width(end, size) for end in self.ends)
        return width(self.centre, size) + 2 * longest + 4 * size <= room
