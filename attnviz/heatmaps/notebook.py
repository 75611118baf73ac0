"""Heatmaps as a notebook shows them."""

from __future__ import annotations

import base64
import html as escaping
import sys
from typing import TYPE_CHECKING

import numpy as np

from ..errors import DataError
from ..images import picture_bytes
from ..render.tiles import draw_overlay, draw_photo
from .pictures import MEANING, facts, headline, photo_of, same_photo, scale_of, tile

if TYPE_CHECKING:
    from .core import Heatmaps


def in_notebook() -> bool:
    """Say whether this runs in a notebook, whose cells show HTML."""
    shell = sys.modules.get("IPython")
    running = shell.get_ipython() if shell is not None else None
    return running is not None and hasattr(running, "kernel")


#: what fades the overlays, and what shows the maps of one class; without scripts all stays visible
_FADE = (
    "this.closest('.attnviz').querySelectorAll('[data-map]').forEach(e=>e.style.opacity=this.value)"
)
_CHOOSE = (
    "this.closest('.attnviz').querySelectorAll('[data-rank]')"
    ".forEach(e=>e.hidden=e.dataset.rank!=this.value)"
)


def html(maps: Heatmaps, *, most: int = 8, side: int = 300) -> str:
    """Return small pictures with captions to fade and choose from, self-contained, text escaped.

    Overlays fade into their photos by a slider; of photos explained for several classes one is
    shown at a time. No script runs but those two handlers.
    """
    count = min(most, len(maps))
    rows: list[list[int]] = []
    for index in range(count):
        if rows and same_photo(maps, [rows[-1][0], index]):
            rows[-1].append(index)
        else:
            rows.append([index])
    cells = [_cell(maps, row, side) for row in rows]
    several = max(map(len, rows), default=0)
    controls = ""
    if count and photo_of(maps, 0) is not None:
        controls += (
            '<label>photo <input type="range" min="0" max="1" step="0.05" value="1" '
            f'aria-label="opacity of the overlay" oninput="{_FADE}"> overlay</label> '
        )
    if several > 1:
        names = [{maps.label[row[k]] for row in rows if k < len(row)} for k in range(several)]
        options = "".join(
            f'<option value="{k}">{escaping.escape(n.pop() if len(n) == 1 else f"no. {k + 1}")}'
            "</option>"
            for k, n in enumerate(names)
        )
        controls += f'<select aria-label="class" onchange="{_CHOOSE}">{options}</select>'
    more = f"<p>and {len(maps) - most} more</p>" if len(maps) > most else ""
    about = facts(maps, 0) if len(maps) else "no maps"
    head = escaping.escape(f"{MEANING} · {about}")
    return (
        f'<div class="attnviz" style="font-size:0.85em"><p>{head}</p><div>{controls}</div>'
        f"{''.join(cells)}{more}</div>"
    )


def _cell(maps: Heatmaps, row: list[int], side: int) -> str:
    """One photo with the overlays of its maps, of which the first is shown."""
    photo = photo_of(maps, row[0])
    drawn = "" if photo is None else _image(draw_photo(tile(maps, row[0]), side), "photo")
    captions = ""
    for rank, index in enumerate(row):
        hidden = " hidden" if rank else ""
        words = [headline(maps, index)]
        try:
            scale = scale_of(maps, index, None, False)
            over = "position:absolute;left:0;top:0" if photo is not None else ""
            picture = _image(draw_overlay(tile(maps, index), scale, side), "overlay", over)
            drawn += f'<span data-rank="{rank}"{hidden}>{picture}</span>'
            words.append(f"{scale.low:.3g} to {scale.high:.3g} {maps.units}".strip())
        except DataError as error:
            drawn += f'<p data-rank="{rank}"{hidden}>{escaping.escape(str(error))}</p>'
        text = "<br>".join(escaping.escape(w) for w in words)
        captions += f'<figcaption data-rank="{rank}"{hidden}>{text}</figcaption>'
    return (
        f'<figure style="display:inline-block;vertical-align:top;margin:4px;max-width:{side}px">'
        f'<div style="position:relative">{drawn}</div>{captions}</figure>'
    )


def _image(picture: np.ndarray, alt: str, style: str = "") -> str:
    data = base64.b64encode(picture_bytes(picture, ".jpg")).decode()
    mark = ' data-map="1"' if alt == "overlay" else ""
    return f'<img alt="{alt}"{mark} style="{style}" src="data:image/jpeg;base64,{data}">'
