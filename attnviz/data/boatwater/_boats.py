"""Seven kinds of boats, seen from the side. Each function draws on a pen; (0..1) coordinates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ._pen import Colour, Pen, darker, lighter, mix

WHITE: Colour = (240, 240, 236)
GLASS: Colour = (52, 60, 66)
WOOD: Colour = (148, 98, 56)
DARK: Colour = (40, 40, 44)


@dataclass(frozen=True)
class Paint:
    """The colours of one object: of its body, of a second part, and of details."""

    body: Colour
    second: Colour
    detail: Colour


def _hull(
    pen: Pen, colour: Colour, x0: float, x1: float, top: float, bottom: float, bow: float = 0.14
) -> None:
    """A hull with a raised, raking bow on the right, a rim, and a darker foot."""
    deep = bottom - top
    stern = x0 + 0.05
    pen.polygon(
        colour,
        (x0, top),
        (x0 + 0.6 * (x1 - x0), top + 0.02),
        (x1, top - 0.22 * deep),
        (x1 - 0.5 * bow, top + 0.45 * deep),
        (x1 - bow, bottom),
        (stern, bottom),
    )
    pen.polygon(
        darker(colour, 0.35),
        (stern - 0.012, bottom - 0.28 * deep),
        (x1 - 0.75 * bow, bottom - 0.28 * deep),
        (x1 - bow, bottom),
        (stern, bottom),
    )
    pen.line(
        lighter(colour, 0.6),
        0.014,
        (x0, top),
        (x0 + 0.6 * (x1 - x0), top + 0.02),
        (x1, top - 0.22 * deep),
    )


def sailboat(pen: Pen, paint: Paint, rng: np.random.Generator) -> None:
    """One mast, a mainsail, mostly a jib."""
    mast = rng.uniform(0.46, 0.56)
    head = rng.uniform(0.03, 0.1)
    sail = lighter(paint.second, 0.75) if rng.random() < 0.75 else paint.second
    _hull(pen, paint.body, 0.08, 0.95, 0.77, 0.95)
    pen.polygon(sail, (mast - 0.025, head + 0.02), (mast - 0.025, 0.7), (0.1, 0.7))
    pen.line(darker(sail, 0.2), 0.01, (mast - 0.03, 0.45), (0.28, 0.45))
    if rng.random() < 0.85:
        front = mix(sail, paint.detail, 0.35)
        pen.polygon(front, (mast + 0.025, head + 0.1), (mast + 0.03, 0.68), (0.9, 0.72))
    pen.line(DARK, 0.022, (mast, head), (mast, 0.78))
    pen.line(DARK, 0.016, (mast, 0.72), (0.1, 0.72))


def motorboat(pen: Pen, paint: Paint, rng: np.random.Generator) -> None:
    """A small cabin cruiser."""
    _hull(pen, paint.body, 0.04, 0.98, 0.5, 0.92, 0.24)
    back = rng.uniform(0.18, 0.3)
    roof = rng.uniform(0.14, 0.22)
    pen.polygon(WHITE, (back, 0.5), (back + 0.05, roof), (0.56, roof), (0.72, 0.48))
    pen.polygon(
        GLASS, (back + 0.08, 0.42), (back + 0.1, roof + 0.08), (0.42, roof + 0.08), (0.42, 0.42)
    )
    pen.polygon(GLASS, (0.46, 0.42), (0.46, roof + 0.08), (0.55, roof + 0.08), (0.63, 0.42))
    pen.line(paint.detail, 0.02, (0.06, 0.68), (0.84, 0.66))
    pen.line(DARK, 0.012, (0.74, 0.46), (0.76, 0.32), (0.95, 0.3), (0.96, 0.42))
    if rng.random() < 0.5:
        pen.line(DARK, 0.012, (back + 0.12, roof), (back + 0.12, 0.02))


def rowboat(pen: Pen, paint: Paint, rng: np.random.Generator) -> None:
    """An open boat seen slightly from above: rim, inside, thwarts, oars."""
    pen.ellipse(paint.body, (0.5, 0.42), (0.48, 0.5), 0, 180)
    pen.polygon(paint.body, (0.02, 0.42), (0.0, 0.26), (0.2, 0.42))
    pen.polygon(paint.body, (0.98, 0.42), (1.0, 0.2), (0.8, 0.42))
    pen.ellipse(lighter(paint.body, 0.5), (0.5, 0.42), (0.47, 0.17))
    pen.ellipse(darker(WOOD, 0.45), (0.5, 0.43), (0.43, 0.125))
    for x in (0.28, 0.5, 0.7):
        pen.polygon(WOOD, (x, 0.32), (x + 0.06, 0.32), (x + 0.07, 0.54), (x - 0.01, 0.54))
    if rng.random() < 0.6:
        pen.line(lighter(WOOD, 0.3), 0.022, (0.45, 0.42), (0.16, 0.86))
        pen.line(lighter(WOOD, 0.3), 0.022, (0.55, 0.42), (0.84, 0.86))
    if rng.random() < 0.4:
        pen.ellipse(paint.detail, (0.5, 0.26), (0.07, 0.16))
        pen.ellipse((205, 160, 130), (0.5, 0.08), (0.04, 0.08))


def cargo_ship(pen: Pen, paint: Paint, rng: np.random.Generator) -> None:
    """A long hull with containers and the bridge aft."""
    _hull(pen, paint.body, 0.01, 0.99, 0.56, 0.95, 0.1)
    pen.box(WHITE, 0.06, 0.14, 0.2, 0.57)
    for y in (0.2, 0.31, 0.42):
        pen.box(GLASS, 0.08, y, 0.18, y + 0.05)
    pen.box(paint.detail, 0.09, 0.02, 0.15, 0.14)
    colours = [paint.detail, paint.second, (190, 120, 50), (120, 124, 120), (90, 140, 90)]
    x = 0.24
    while x < 0.84:
        for level in range(int(rng.integers(1, 4))):
            y = 0.46 - 0.11 * level
            pen.box(colours[int(rng.integers(len(colours)))], x, y, x + 0.085, y + 0.1)
        x += 0.095


def trawler(pen: Pen, paint: Paint, rng: np.random.Generator) -> None:
    """A fishing boat: high bow, wheelhouse, mast with stays."""
    pen.polygon(
        paint.body, (0.04, 0.62), (0.55, 0.66), (0.97, 0.42), (0.86, 0.95), (0.1, 0.95), (0.05, 0.8)
    )
    pen.polygon(darker(paint.body, 0.4), (0.06, 0.85), (0.885, 0.85), (0.86, 0.95), (0.1, 0.95))
    pen.line(lighter(paint.body, 0.6), 0.02, (0.04, 0.62), (0.55, 0.66), (0.97, 0.42))
    left = rng.uniform(0.42, 0.5)
    pen.box(lighter(paint.second, 0.5), left, 0.34, left + 0.24, 0.64)
    pen.box(paint.detail, left - 0.03, 0.29, left + 0.27, 0.35)
    pen.box(GLASS, left + 0.03, 0.39, left + 0.1, 0.48)
    pen.box(GLASS, left + 0.14, 0.39, left + 0.21, 0.48)
    mast = left - 0.12
    pen.line(DARK, 0.025, (mast, 0.04), (mast, 0.64))
    pen.line(DARK, 0.012, (mast, 0.06), (0.94, 0.44))
    pen.line(DARK, 0.012, (mast, 0.06), (0.06, 0.62))
    pen.line(DARK, 0.02, (mast, 0.5), (0.12, 0.26))


def ferry(pen: Pen, paint: Paint, rng: np.random.Generator) -> None:
    """A passenger ship: decks with rows of windows, a funnel."""
    _hull(pen, paint.body, 0.01, 0.99, 0.64, 0.95, 0.12)
    decks = int(rng.integers(2, 4))
    for deck in range(decks):
        y = 0.52 - 0.13 * deck
        left, right = 0.06 + 0.05 * deck, 0.86 - 0.09 * deck
        pen.box(WHITE, left, y, right, y + 0.135)
        for x in np.arange(left + 0.03, right - 0.05, 0.075):
            pen.box(GLASS, x, y + 0.035, x + 0.045, y + 0.09)
    top = 0.52 - 0.13 * (decks - 1)
    pen.polygon(paint.detail, (0.26, top), (0.24, top - 0.17), (0.36, top - 0.17), (0.38, top))
    pen.box(DARK, 0.24, top - 0.2, 0.36, top - 0.15)


def canoe(pen: Pen, paint: Paint, rng: np.random.Generator) -> None:
    """A crescent of a hull with one or two paddlers."""
    pen.polygon(
        paint.body,
        (0.0, 0.52),
        (0.12, 0.68),
        (0.5, 0.72),
        (0.88, 0.68),
        (1.0, 0.52),
        (0.94, 0.82),
        (0.8, 0.95),
        (0.2, 0.95),
        (0.06, 0.82),
    )
    pen.line(lighter(paint.body, 0.6), 0.02, (0.0, 0.53), (0.12, 0.69), (0.5, 0.73), (0.88, 0.69))
    seats = (0.34, 0.66) if rng.random() < 0.6 else (0.5,)
    for x in seats:
        pen.polygon(
            paint.second, (x - 0.07, 0.74), (x - 0.05, 0.36), (x + 0.05, 0.36), (x + 0.07, 0.74)
        )
        pen.ellipse((205, 160, 130), (x, 0.24), (0.042, 0.12))
        pen.line(WOOD, 0.018, (x - 0.12, 0.3), (x + 0.12, 0.92))
        pen.ellipse(WOOD, (x + 0.12, 0.92), (0.022, 0.08))


#: name -> (drawing, height / width of its canvas)
BOATS: dict[str, tuple[Callable[[Pen, Paint, np.random.Generator], None], float]] = {
    "sailboat": (sailboat, 1.0),
    "motorboat": (motorboat, 0.5),
    "rowboat": (rowboat, 0.45),
    "cargo ship": (cargo_ship, 0.42),
    "trawler": (trawler, 0.65),
    "ferry": (ferry, 0.5),
    "canoe": (canoe, 0.42),
}
