"""Eight kinds of objects that are no boats. Same canvas and colours as the boats have."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ._boats import DARK, GLASS, WHITE, WOOD, Paint
from ._pen import Pen, darker, lighter, mix


def car(pen: Pen, paint: Paint, rng: np.random.Generator) -> None:
    """A saloon from the side."""
    roof = rng.uniform(0.12, 0.2)
    pen.polygon(
        paint.body,
        (0.02, 0.55),
        (0.2, 0.48),
        (0.32, roof),
        (0.66, roof),
        (0.8, 0.48),
        (0.97, 0.54),
        (0.98, 0.8),
        (0.02, 0.8),
    )
    pen.polygon(GLASS, (0.26, 0.46), (0.35, roof + 0.07), (0.48, roof + 0.07), (0.48, 0.46))
    pen.polygon(GLASS, (0.51, 0.46), (0.51, roof + 0.07), (0.64, roof + 0.07), (0.74, 0.46))
    pen.line(darker(paint.body), 0.012, (0.49, 0.48), (0.49, 0.78))
    pen.box((240, 226, 170), 0.93, 0.56, 0.98, 0.64)
    for x in (0.22, 0.78):
        pen.ellipse(DARK, (x, 0.8), (0.1, 0.19))
        pen.ellipse((150, 152, 150), (x, 0.8), (0.05, 0.095))


def truck(pen: Pen, paint: Paint, rng: np.random.Generator) -> None:
    """A cab and a box body."""
    pen.box(lighter(paint.second, 0.4), 0.02, 0.08, 0.66, 0.78)
    pen.line(darker(paint.second, 0.1), 0.01, (0.02, 0.3), (0.66, 0.3))
    pen.polygon(paint.body, (0.69, 0.24), (0.86, 0.24), (0.97, 0.5), (0.97, 0.8), (0.69, 0.8))
    pen.polygon(GLASS, (0.76, 0.3), (0.84, 0.3), (0.92, 0.5), (0.76, 0.5))
    pen.box(DARK, 0.04, 0.76, 0.96, 0.83)
    for x in (0.16, 0.32, 0.82):
        pen.ellipse(DARK, (x, 0.84), (0.075, 0.14))
        pen.ellipse((150, 152, 150), (x, 0.84), (0.035, 0.065))


def house(pen: Pen, paint: Paint, rng: np.random.Generator) -> None:
    """Walls, a gable roof, a door and windows."""
    wall = lighter(paint.body, 0.35)
    pen.box(wall, 0.1, 0.42, 0.9, 0.97)
    if rng.random() < 0.6:
        pen.box(darker(paint.detail), 0.66, 0.1, 0.76, 0.36)
    pen.polygon(darker(paint.second, 0.15), (0.03, 0.45), (0.5, 0.06), (0.97, 0.45))
    door = rng.choice([0.18, 0.42])
    pen.box(WOOD, door, 0.66, door + 0.15, 0.97)
    for x in (0.2, 0.62) if door > 0.3 else (0.42, 0.66):
        pen.box(WHITE, x, 0.54, x + 0.17, 0.74)
        pen.box(GLASS, x + 0.02, 0.565, x + 0.15, 0.72)


def tree(pen: Pen, paint: Paint, rng: np.random.Generator) -> None:
    """A trunk under a crown, broad or pointed."""
    pen.polygon(darker(WOOD, 0.3), (0.44, 0.97), (0.46, 0.5), (0.54, 0.5), (0.57, 0.97))
    leaf = mix((60, 110, 44), paint.second, 0.2)
    if rng.random() < 0.4:
        for y, half in ((0.72, 0.36), (0.52, 0.29), (0.32, 0.2)):
            pen.polygon(darker(leaf, 0.15), (0.5 - half, y), (0.5, y - 0.32), (0.5 + half, y))
        return
    for _ in range(9):
        x, y = rng.uniform(0.26, 0.74), rng.uniform(0.2, 0.52)
        pen.ellipse(darker(leaf, rng.uniform(0, 0.4)), (x, y), (0.22, 0.17))


def cow(pen: Pen, paint: Paint, rng: np.random.Generator) -> None:
    """A grazing or standing animal with patches."""
    coat = mix(paint.body, WOOD, 0.4) if rng.random() < 0.5 else WHITE
    patch = darker(coat, 0.7)
    for x in (0.18, 0.27, 0.64, 0.72):
        pen.box(darker(coat, 0.2), x, 0.6, x + 0.06, 0.97)
    pen.ellipse(coat, (0.46, 0.46), (0.34, 0.24))
    for _ in range(3):
        pen.ellipse(patch, (rng.uniform(0.28, 0.64), rng.uniform(0.36, 0.52)), (0.08, 0.09))
    y = 0.26 if rng.random() < 0.6 else 0.66
    pen.polygon(coat, (0.68, 0.3), (0.8, 0.56), (0.92, y + 0.06), (0.82, y - 0.08))
    pen.ellipse(patch, (0.89, y + 0.02), (0.1, 0.11), angle=25)
    pen.line(patch, 0.02, (0.13, 0.4), (0.08, 0.74))


def bird(pen: Pen, paint: Paint, rng: np.random.Generator) -> None:
    """A duck or goose from the side."""
    body = lighter(paint.body, 0.35)
    pen.ellipse(body, (0.42, 0.66), (0.36, 0.26))
    pen.polygon(body, (0.02, 0.42), (0.3, 0.56), (0.2, 0.78))
    pen.polygon(body, (0.58, 0.66), (0.68, 0.2), (0.82, 0.22), (0.76, 0.74))
    pen.ellipse(darker(paint.second, 0.3), (0.76, 0.2), (0.11, 0.15))
    pen.polygon((228, 160, 40), (0.84, 0.16), (0.99, 0.24), (0.84, 0.28))
    pen.ellipse(darker(body, 0.25), (0.38, 0.64), (0.22, 0.14))
    pen.ellipse(DARK, (0.79, 0.17), (0.018, 0.025))


def plane(pen: Pen, paint: Paint, rng: np.random.Generator) -> None:
    """An aeroplane on its wheels."""
    pen.ellipse(WHITE, (0.5, 0.52), (0.47, 0.16))
    pen.polygon(paint.body, (0.04, 0.5), (0.02, 0.12), (0.14, 0.12), (0.26, 0.44))
    pen.polygon(darker(paint.body, 0.2), (0.4, 0.54), (0.6, 0.54), (0.42, 0.86), (0.32, 0.86))
    pen.line(paint.body, 0.02, (0.08, 0.56), (0.94, 0.56))
    for x in np.arange(0.28, 0.84, 0.07):
        pen.box(GLASS, x, 0.43, x + 0.03, 0.5)
    pen.polygon(GLASS, (0.86, 0.42), (0.93, 0.48), (0.86, 0.48))
    for x in (0.44, 0.82):
        pen.line(DARK, 0.015, (x, 0.62), (x, 0.84))
        pen.ellipse(DARK, (x, 0.87), (0.03, 0.08))


def tent(pen: Pen, paint: Paint, rng: np.random.Generator) -> None:
    """A ridge tent with an open front."""
    peak = rng.uniform(0.4, 0.5)
    pen.polygon(
        paint.body, (0.02, 0.95), (peak - 0.1, 0.1), (0.72, 0.14), (0.98, 0.9), (0.62, 0.95)
    )
    pen.polygon(lighter(paint.body, 0.3), (0.02, 0.95), (peak - 0.1, 0.1), (0.62, 0.95))
    pen.polygon(darker(paint.body, 0.65), (0.2, 0.95), (peak - 0.1, 0.36), (0.46, 0.95))
    pen.line(darker(paint.second), 0.012, (peak - 0.1, 0.1), (0.62, 0.95))


#: name -> (drawing, height / width of its canvas)
OTHERS: dict[str, tuple[Callable[[Pen, Paint, np.random.Generator], None], float]] = {
    "car": (car, 0.48),
    "truck": (truck, 0.55),
    "house": (house, 0.9),
    "tree": (tree, 1.05),
    "cow": (cow, 0.68),
    "bird": (bird, 0.75),
    "plane": (plane, 0.5),
    "tent": (tent, 0.6),
}
