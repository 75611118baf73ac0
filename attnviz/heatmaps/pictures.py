"""Heatmaps as pictures: overlay, plot and notebook display."""

from __future__ import annotations

import base64
import html as escaping
import io
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import DataError
from .regions import OUTSIDE
from .scaling import DESCRIPTIONS, RELATIVE, check_mode, limits

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from PIL.Image import Image

    from .core import Heatmaps

__all__ = ["OUTSIDE", "caption", "html", "overlay", "plot"]


def is_signed(maps: Heatmaps) -> bool:
    """Return whether any map has negative values that are more than rounding."""
    values = maps.values.detach().nan_to_num(nan=0.0)
    return bool((values.amin() < -RELATIVE * values.abs().amax()).item()) if len(maps) else False


def scaled(
    maps: Heatmaps, mode: str | None, shared: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, str]:
    """Return maps in [0, 1] for drawing, the raw ends of their scales, which are flat, the mode.

    A signed scale has its zero at 0.5. A flat map is NaN: drawn as nothing.
    """
    maps.check_finite()
    if mode is None:
        mode = "signed" if is_signed(maps) else "minmax"
    check_mode(mode)
    low, high, flat = (
        t.float().cpu().numpy() if t.is_floating_point() else t.cpu().numpy()
        for t in limits(maps.values, mode, shared=shared)
    )
    values = maps.values.detach().float().cpu().numpy()
    span = np.where(flat, 1.0, high - low).astype(np.float32)
    out = np.clip((values - low[:, None, None]) / span[:, None, None], 0.0, 1.0)
    out[flat] = np.nan
    return out, low, high, flat, mode


def caption(maps: Heatmaps, index: int) -> str:
    """Return one line: class, score, method, layer, native map size."""
    h, w = maps.values.shape[1:]
    parts = [f"{maps.label[index]} {float(maps.score[index]):.3g}".strip(), maps.method]
    if maps.layer:
        parts.append(maps.layer)
    return " · ".join([*parts, f"{h} × {w}"])


def _photo(maps: Heatmaps, index: int, image: Any) -> np.ndarray:
    if image is not None:
        from ..images import read_image

        return read_image(image)
    photo = maps.images[index] if maps.images is not None else None
    if photo is None:
        raise DataError(
            f"map {index} has no photo attached (its input was a tensor, or it was loaded from a "
            "file); pass image=..., or attach photos with .with_images([...])"
        )
    return photo


def overlay(
    maps: Heatmaps,
    index: int | None,
    *,
    image: Any = None,
    mode: str | None = None,
    shared: bool = False,
    **options: Any,
) -> Image | list[Image]:
    """See `Heatmaps.overlay`."""
    from PIL import Image

    from ..render import overlay as draw

    values, _, _, _, mode = scaled(maps, mode, shared)
    at = range(len(maps)) if index is None else [range(len(maps))[index]]
    pictures = [
        Image.fromarray(
            draw(
                _photo(maps, i, image),
                values[i],
                geometry=maps.geometry[i] if maps.geometry is not None else None,
                signed=mode == "signed",
                **options,
            )
        )
        for i in at
    ]
    return pictures[0] if len(pictures) == 1 else pictures


def plot(maps: Heatmaps, ax: Axes | None, index: int, **options: Any) -> Axes:
    """See `Heatmaps.plot`."""
    import matplotlib.pyplot as plt
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize

    from ..render.colour import DEFAULT, DEFAULT_SIGNED, table

    mode, shared = options.pop("mode", None), options.pop("shared", False)
    index = range(len(maps))[index]
    _, low, high, flat, mode = scaled(maps, mode, shared)
    picture = overlay(maps, index, mode=mode, shared=shared, **options)
    if ax is None:
        _, ax = plt.subplots()
    ax.imshow(np.asarray(picture))
    ax.set_axis_off()
    ax.set_title(caption(maps, index), fontsize=9)
    if flat[index]:
        ax.text(0.5, 0.02, "no evidence", transform=ax.transAxes, ha="center", va="bottom")
        return ax
    name = options.get("colormap") or (DEFAULT_SIGNED if mode == "signed" else DEFAULT)
    scale = ScalarMappable(
        Normalize(float(low[index]), float(high[index])), ListedColormap(table(name) / 255.0)
    )
    bar = ax.figure.colorbar(scale, ax=ax, fraction=0.046, pad=0.03)
    bar.set_label(f"{maps.units or 'map value'} ({DESCRIPTIONS[mode]})", fontsize=8)
    return ax


def html(maps: Heatmaps, *, most: int = 8, side: int = 320) -> str:
    """Return a row of small pictures with captions, self-contained, text escaped."""
    cells = []
    for index in range(min(most, len(maps))):
        try:
            picture = overlay(maps[index], 0)
            picture.thumbnail((side, side))
            buffer = io.BytesIO()
            picture.save(buffer, "PNG")
            data = base64.b64encode(buffer.getvalue()).decode()
            shown = f'<img src="data:image/png;base64,{data}" alt="overlay">'
        except DataError as error:
            shown = escaping.escape(str(error))
        text = escaping.escape(caption(maps, index))
        cells.append(
            f'<figure style="display:inline-block;margin:4px;max-width:{side}px">{shown}'
            f"<figcaption>{text}</figcaption></figure>"
        )
    more = f"<p>{len(maps) - most} more</p>" if len(maps) > most else ""
    return f"<div>{escaping.escape(repr(maps))}<br>{''.join(cells)}{more}</div>"
