"""Crisp text on pictures: Pillow's FreeType with the DejaVu font that matplotlib brings."""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont

INK = (28, 28, 30)
SOFT = (95, 95, 100)
NO_EVIDENCE = "no evidence"


@lru_cache(maxsize=64)
def font(size: int, *, bold: bool = False) -> FreeTypeFont:
    """Return DejaVu Sans at a size in pixels."""
    from PIL import ImageFont

    # found without importing matplotlib, which takes half a second
    spec = importlib.util.find_spec("matplotlib")
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder, "mpl-data", "fonts", "ttf", name)
        if path.exists():
            return ImageFont.truetype(str(path), size)
    return ImageFont.load_default(size)  # type: ignore[return-value]


def width(text: str, size: int, *, bold: bool = False) -> int:
    """Return the width of a line of text in pixels."""
    return int(np.ceil(font(size, bold=bold).getlength(text)))


def line_height(size: int) -> int:
    """Return the distance between the tops of two lines."""
    return round(size * 1.35)


def wrap(text: str, size: int, room: int, *, bold: bool = False, most: int = 3) -> list[str]:
    """Return text as lines no wider than `room` pixels, at most `most`; the rest ends in "…"."""
    lines: list[str] = []
    for paragraph in text.split("\n"):
        line = ""
        for word in paragraph.split(" "):
            longer = f"{line} {word}" if line else word
            if width(longer, size, bold=bold) <= room or not line:
                line = longer
            else:
                lines.append(line)
                line = word
        lines.append(line)
    if len(lines) > most:
        lines = [*lines[: most - 1], lines[most - 1] + " …"]
    return [shorten(line, size, room, bold=bold) for line in lines]


def shorten(text: str, size: int, room: int, *, bold: bool = False) -> str:
    """Return text cut at its end with "…" so that it is no wider than `room` pixels."""
    if width(text, size, bold=bold) <= room:
        return text
    text = text.rstrip(" …")
    while text and width(text + "…", size, bold=bold) > room:
        text = text[:-1]
    return text + "…" if text else ""


def stamp(photo: np.ndarray, text: str = NO_EVIDENCE) -> np.ndarray:
    """Return a copy of a photo with text at the bottom, white on a dark strip, if there is room.

    A photo too small for legible text is returned as it is.
    """
    from PIL import Image, ImageDraw

    height, across = photo.shape[:2]
    size = int(np.clip(min(height, across) / 16, 9, 96))
    while size > 7 and width(text, size) + size > across:
        size -= 1
    if width(text, size) + size > across or 2 * size > height:
        return np.array(photo, order="C")
    picture = Image.fromarray(photo)
    draw = ImageDraw.Draw(picture, "RGBA")
    strip = round(1.7 * size)
    draw.rectangle((0, height - strip, across, height), fill=(0, 0, 0, 150))
    draw.text(
        (across / 2, height - strip / 2), text, font=font(size), fill=(255, 255, 255), anchor="mm"
    )
    return np.asarray(picture)


def write(
    picture: Image,
    at: tuple[int, int],
    lines: list[str],
    size: int,
    *,
    bold: bool = False,
    colour: tuple[int, int, int] = INK,
    centred: int | None = None,
) -> int:
    """Write lines with their top left at a point, or centred in a width; return the y below."""
    from PIL import ImageDraw

    draw = ImageDraw.Draw(picture)
    x, y = at
    for line in lines:
        left = x if centred is None else x + (centred - width(line, size, bold=bold)) // 2
        draw.text((left, y), line, font=font(size, bold=bold), fill=colour)
        y += line_height(size)
    return y
