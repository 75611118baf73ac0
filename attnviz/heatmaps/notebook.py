"""Heatmaps as a notebook shows them."""

from __future__ import annotations

import base64
import html as escaping
import itertools
import sys
from collections.abc import Mapping, Sequence
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


#: what fades the overlays, and what shows the maps of one class and method; without scripts the
#: first stay visible
_FADE = (
    "this.closest('.attnviz').querySelectorAll('[data-map]').forEach(e=>e.style.opacity=this.value)"
)
_CHOOSE = (
    "const a=this.closest('.attnviz'),"
    "s=n=>(a.querySelector('select[name='+n+']')||{value:0}).value;"
    "a.querySelectorAll('[data-rank]').forEach("
    "e=>e.hidden=e.dataset.rank!=s('rank')||e.dataset.method!=s('method'))"
)


class ByName(dict[str, "Heatmaps"]):
    """Results of several methods or layers by name; in a notebook, one cell to switch among them.

    Otherwise a dict as any other.
    """

    def _repr_html_(self) -> str | None:
        from .ranks import as_pictures

        alike = {len(maps) for maps in self.values()}
        if len(alike) != 1:
            return None
        return html({name: as_pictures(maps) for name, maps in self.items()})


def html(results: Heatmaps | Mapping[str, Heatmaps], *, most: int = 8, side: int = 300) -> str:
    """Return small pictures with captions to fade and choose from, self-contained, text escaped.

    Overlays fade into their photos by a slider; of photos explained for several classes, and of
    several results by name (methods, layers), one is shown at a time. No script runs but those
    handlers.
    """
    named = results if isinstance(results, Mapping) else {"": results}
    maps = next(iter(named.values()))
    count = min(most, len(maps))
    rows: list[list[int]] = []
    for index in range(count):
        if rows and same_photo(maps, [rows[-1][0], index]):
            rows[-1].append(index)
        else:
            rows.append([index])
    cells = [_cell(list(named.values()), row, side) for row in rows]
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
        controls += _select("rank", "class", options)
    if len(named) > 1:
        options = "".join(
            f'<option value="{k}">{escaping.escape(name)}</option>' for k, name in enumerate(named)
        )
        controls += _select("method", "method or layer", options)
    more = f"<p>and {len(maps) - most} more</p>" if len(maps) > most else ""
    shown = {facts(m, 0) if len(m) else "no maps" for m in named.values()}
    about = shown.pop() if len(shown) == 1 else str(maps.meta.get("model", ""))
    head = escaping.escape(f"{MEANING} · {about}")
    return (
        f'<div class="attnviz" style="font-size:0.85em"><p>{head}</p><div>{controls}</div>'
        f"{''.join(cells)}{more}</div>"
    )


def _select(name: str, label: str, options: str) -> str:
    return f'<select name="{name}" aria-label="{label}" onchange="{_CHOOSE}">{options}</select> '


def _cell(results: Sequence[Heatmaps], row: list[int], side: int) -> str:
    """One photo with the overlays of its maps, of which the first is shown."""
    first = results[0]
    photo = photo_of(first, row[0])
    drawn = "" if photo is None else _image(draw_photo(tile(first, row[0]), side), "photo")
    captions = ""
    for (method, maps), (rank, index) in itertools.product(enumerate(results), enumerate(row)):
        at = f'data-rank="{rank}" data-method="{method}"' + " hidden" * (rank + method > 0)
        words = [headline(maps, index)]
        if len(results) > 1:
            words.append(facts(maps, index))
        try:
            scale = scale_of(maps, index, None, False)
            over = "position:absolute;left:0;top:0" if photo is not None else ""
            picture = _image(draw_overlay(tile(maps, index), scale, side), "overlay", over)
            drawn += f"<span {at}>{picture}</span>"
            words.append(f"{scale.low:.3g} to {scale.high:.3g} {maps.units}".strip())
        except DataError as error:
            drawn += f"<p {at}>{escaping.escape(str(error))}</p>"
        text = "<br>".join(escaping.escape(w) for w in words)
        captions += f"<figcaption {at}>{text}</figcaption>"
    return (
        f'<figure style="display:inline-block;vertical-align:top;margin:4px;max-width:{side}px">'
        f'<div style="position:relative">{drawn}</div>{captions}</figure>'
    )


def _image(picture: np.ndarray, alt: str, style: str = "") -> str:
    data = base64.b64encode(picture_bytes(picture, ".jpg")).decode()
    mark = ' data-map="1"' if alt == "overlay" else ""
    return f'<img alt="{alt}"{mark} style="{style}" src="data:image/jpeg;base64,{data}">'
