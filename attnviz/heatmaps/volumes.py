"""Maps of signals, volumes and video drawn: over the curve, projections, slices, frames."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..errors import DataError
from ..render.scaling import Scale
from ..writing import write_files
from .pictures import MEANING, facts, headline, tile
from .ranks import CURVE, as_pictures, coloured, is_video, strongest

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..render.tiles import Tile
    from .core import Heatmaps

#: of a volume's axes, outermost first
AXES = ("depth", "height", "width")


def panel(
    maps: Heatmaps,
    index: int,
    *,
    frames: int = 8,
    mode: str | None = None,
    title: str | None = None,
    **options: Any,
) -> Image:
    """Return a volume's projections and slices, a video's frames, or a map over its curve."""
    from ..render import grid

    index = range(len(maps))[index]
    one = maps[index]
    one.check_finite()
    given = None if one.images is None else one.images[0]
    if maps.rank == 1:
        rows = [[tile(as_pictures(one), 0)]]
        options.setdefault("side", CURVE[1])
    elif given is not None and is_video(given):
        rows = _strip(one, given, frames)
    else:
        rows = _views(one, given)
    title = title or f"{headline(maps, index)} · {MEANING} · {facts(maps, index)}"
    return grid(rows, title=title, units=maps.units, mode=mode, **options)


def animate(
    maps: Heatmaps,
    path: str | Path,
    *,
    index: int = 0,
    fps: float = 8.0,
    side: int = 320,
    force: bool = False,
) -> Path:
    """Write a video's frames, or a volume's slices, with their map as an animated WebP.

    Args:
        maps: of three axes.
        path: ends in `.webp`.
        index: which map.
        fps: frames a second.
        side: the longer side in pixels.
        force: overwrite.

    Raises:
        OutputExists: the file is there already.
        DataError: maps of other axes, NaN or infinite values, or another ending.
    """
    from PIL import Image

    from ..render.tiles import Tile, draw_overlay

    path = Path(path)
    if maps.rank != 3 or fps <= 0 or path.suffix.lower() != ".webp":
        raise DataError(
            f"an animation shows maps (d, h, w) slice by slice at fps > 0 as .webp; got maps of "
            f"{maps.rank} axes, fps={fps}, {str(path)!r}"
        )
    one = maps[range(len(maps))[index]]
    one.check_finite()
    given = None if one.images is None else one.images[0]
    values, photos = _full(one, given)
    scale = Scale.of([values])
    drawn = [
        Image.fromarray(draw_overlay(Tile(photo, row), scale, side))
        for row, photo in zip(values, photos, strict=True)
    ]
    buffer = io.BytesIO()
    drawn[0].save(
        buffer, "WEBP", save_all=True, append_images=drawn[1:], duration=round(1000 / fps), loop=0
    )
    write_files({path: buffer.getvalue()}, force=force)
    return path


def _full(one: Heatmaps, given: np.ndarray | None) -> tuple[np.ndarray, Any]:
    """Return a map at the size of its input, and the pictures that its slices are drawn on."""
    size = "input" if given is None else given.shape[1:]
    if given is None and "input_size" not in one.meta:
        size = tuple(one.values.shape[1:])
    values = one.resize(size).values[0].detach().float().cpu().numpy()
    return values, [None] * len(values) if given is None else coloured(given)


def _strip(one: Heatmaps, given: np.ndarray, frames: int) -> list[list[Tile]]:
    from ..render import Tile

    values, photos = _full(one, given)
    count = min(max(frames, 1), len(values))
    most = int(np.abs(values).reshape(len(values), -1).max(1).argmax())
    shown = sorted({*np.linspace(0, len(values) - 1, count).round().astype(int).tolist(), most})
    tiles = [
        Tile(photos[i], values[i], title=f"frame {i}" + (" (strongest)" if i == most else ""))
        for i in shown
    ]
    return [tiles[i : i + 5] for i in range(0, len(tiles), 5)]


def _views(one: Heatmaps, given: np.ndarray | None) -> list[list[Tile]]:
    from ..render import Tile

    values, photos = _full(one, given)
    grey = None if given is None else np.asarray(photos)
    peak = np.unravel_index(int(np.abs(values).argmax()), values.shape)

    def view(axis: int, at: int | None) -> Iterator[Any]:
        if at is None:
            yield None if grey is None else grey.max(axis)
            yield strongest(torch.from_numpy(values), axis).numpy()
        else:
            yield None if grey is None else np.ascontiguousarray(grey.take(at, axis))
            yield np.ascontiguousarray(values.take(at, axis))

    whole = [
        Tile(*view(axis, None), title=f"maximum along {name}") for axis, name in enumerate(AXES)
    ]
    slices = [
        Tile(*view(axis, int(peak[axis])), title=f"slice at {name} {peak[axis]}")
        for axis, name in enumerate(AXES)
    ]
    return [whole, slices]
