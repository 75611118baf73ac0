"""Equations as SVG paths, from matplotlib's mathtext: no font and no script is needed."""

from __future__ import annotations

import math

from ..errors import DataError

#: units of the path per em
_EM = 100.0
#: white around the ink, in em
_RIM = 0.08


def equation_svg(equation: str) -> str:
    """Return an equation as inline SVG in the colour of the text around it, sized in em.

    Args:
        equation: mathtext without dollar signs; a new line starts a new line.

    Returns:
        One `<svg>` element a line. It holds numbers alone: nothing of the equation's text.

    Raises:
        DataError: mathtext cannot read a line; the message says where it stopped.
    """
    lines = [line.strip() for line in equation.splitlines() if line.strip()]
    if not lines:
        raise DataError("the equation is empty")
    return "\n".join(_line(line) for line in lines)


def _line(line: str) -> str:
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    # computer modern reads as mathematics beside a page's own letters
    font = FontProperties(math_fontfamily="cm")
    try:
        path = TextPath((0, 0), f"${line}$", size=_EM, prop=font)
    except ValueError as error:
        raise DataError(
            f"the equation {line!r} is no mathtext: {' '.join(str(error).split())}"
        ) from error
    if not len(path.vertices):
        raise DataError(f"the equation {line!r} draws nothing")
    box = path.get_extents()
    rim = _RIM * _EM
    left, top = box.x0 - rim, -box.y1 - rim
    width, height = box.width + 2 * rim, box.height + 2 * rim
    view = " ".join(f"{v:.1f}" for v in (left, top, width, height))
    return (
        f'<svg aria-hidden="true" viewBox="{view}" style="width:{width / _EM:.2f}em;'
        f'height:{height / _EM:.2f}em"><path d="{_commands(path)}"/></svg>'
    )


def _commands(path: object) -> str:
    """Return a matplotlib path as the `d` of an SVG path; y points down there."""
    from matplotlib.path import Path

    letters = {Path.MOVETO: "M", Path.LINETO: "L", Path.CURVE3: "Q", Path.CURVE4: "C"}
    words = []
    for points, code in path.iter_segments(simplify=False, curves=True):  # type: ignore[attr-defined]
        if code == Path.CLOSEPOLY:
            words.append("Z")
        elif code in letters:
            numbers = [n * s for n, s in zip(points.tolist(), (1, -1) * 3, strict=False)]
            if not all(map(math.isfinite, numbers)):
                raise DataError("the equation has a path that is not finite")
            words.append(letters[code] + " ".join(f"{n:.1f}" for n in numbers))
    return "".join(words)
