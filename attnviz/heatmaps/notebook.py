"""Heatmaps as a notebook shows them."""

from __future__ import annotations

import base64
import html as escaping
import sys
from typing import TYPE_CHECKING

import numpy as np

from ..errors import DataError
from ..images import picture_bytes
from .pictures import MEANING, facts, headline, scale_of, tile

if TYPE_CHECKING:
    from .core import Heatmaps


def in_notebook() -> bool:
    """Say whether this runs in a notebook, whose cells show HTML."""
    shell = sys.modules.get("IPython")
    running = shell.get_ipython() if shell is not None else None
    return running is not None and hasattr(running, "kernel")


def html(maps: Heatmaps, *, most: int = 8, side: int = 300) -> str:
    """Return a row of small pictures with captions, self-contained, text escaped."""
    from ..render.tiles import draw_overlay

    cells = []
    for index in range(min(most, len(maps))):
        words = [headline(maps, index)]
        try:
            scale = scale_of(maps, index, None, False)
            drawn = _png(draw_overlay(tile(maps, index), scale, side))
            words.append(f"{scale.low:.3g} to {scale.high:.3g} {maps.units}".strip())
        except DataError as error:
            drawn = f"<p>{escaping.escape(str(error))}</p>"
        text = "<br>".join(escaping.escape(w) for w in words)
        cells.append(
            f'<figure style="display:inline-block;vertical-align:top;margin:4px;'
            f'max-width:{side}px">{drawn}<figcaption>{text}</figcaption></figure>'
        )
    more = f"<p>and {len(maps) - most} more</p>" if len(maps) > most else ""
    about = facts(maps, 0) if len(maps) else "no maps"
    head = escaping.escape(f"{MEANING} · {about}")
    return f'<div style="font-size:0.85em"><p>{head}</p>{"".join(cells)}{more}</div>'


def _png(picture: np.ndarray) -> str:
    data = base64.b64encode(picture_bytes(picture, ".png")).decode()
    return f'<img alt="overlay" src="data:image/png;base64,{data}">'
