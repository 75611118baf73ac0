"""Heatmaps as pictures: overlay, panel, grid, plot and notebook display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..errors import DataError
from ..render.scaling import Scale, check_mode
from ..render.speckle import clipped, smoothed
from .ranks import as_pictures

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL.Image import Image

    from ..render.tiles import Tile
    from .core import Heatmaps

#: said of every picture: a map shows association, it does not explain why
MEANING = "regions associated with the score"


def scale_of(maps: Heatmaps, index: int, mode: str | None, shared: bool) -> Scale:
    """Return the scale that one map is drawn on: its own, or that of all."""
    rows = range(len(maps)) if shared else [index]
    values = [shown(maps, i)[0] for i in rows]
    if not all(np.isfinite(v).all() for v in values):
        maps[list(rows)].check_finite()  # raises, but for NaN outside the crop
    return Scale.of(values, mode)


def raw(maps: Heatmaps, index: int) -> np.ndarray:
    """Return one raw map as a float32 array."""
    return maps.values[index].detach().float().cpu().numpy()


def shown(maps: Heatmaps, index: int) -> tuple[np.ndarray, float]:
    """Return a map as it is drawn, and over how many cells it was smoothed; see `smoothed`."""
    values, sigma = smoothed(raw(maps, index))
    return (clipped(values) if sigma else values), sigma


def facts(maps: Heatmaps, index: int) -> str:
    """Return the model and its weights, method, options, layer and native map size in one line."""
    own = maps.meta.get("map_size") or maps.values.shape[1:]
    # not to be torn apart at a line's end
    size = "\u00a0".join(["map", "\u00a0×\u00a0".join(map(str, own))])
    said = (maps.meta.get("model"), maps.method, maps.meta.get("options"), maps.layer, size)
    return " · ".join(part for part in said if part)


def headline(maps: Heatmaps, index: int) -> str:
    """Return the class, its score and its probability; and whether the map is of that class."""
    words = f"{maps.label[index] or maps.target[index]}   score {float(maps.score[index]):.3g}"
    if maps.probability is not None and np.isfinite(p := float(maps.probability[index])):
        words += f" ({p:.1%})" if 0.0005 <= p <= 0.9995 or p in (0, 1) else f" ({p:.2g})"
    return words if maps.meta.get("class_specific", True) else f"{words} · map of no class"


def photo_of(maps: Heatmaps, index: int, image: Any = None) -> np.ndarray | None:
    """Return the photo given or attached, or None."""
    if image is not None:
        (photo,) = maps[index].with_images([image]).images or (None,)
        return photo
    return maps.images[index] if maps.images is not None else None


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

    from ..images.picture import Picture
    from ..render import overlay as draw
    from ..render.text import stamp

    if index is None and len(maps) > 1:
        maps.check_finite()  # before the first is drawn
    pictures = []
    for i in range(len(maps)) if index is None else [range(len(maps))[index]]:
        photo = photo_of(maps, i, image)
        if photo is None:
            raise DataError(
                f"map {i} has no photo attached (its input was a tensor, or it was loaded from a "
                "file); pass image=..., or attach photos with .with_images([...])"
            )
        scale = scale_of(maps, i, mode, shared)
        drawn_map = scale.apply(shown(maps, i)[0])
        place = maps.geometry[i] if maps.geometry is not None else None
        drawn = draw(photo, drawn_map, geometry=place, signed=scale.signed, **options)
        drawn = stamp(drawn) if np.isnan(drawn_map).all() else drawn
        pictures.append(Picture.of(Image.fromarray(drawn)))
    return pictures[0] if len(pictures) == 1 else pictures


def tile(maps: Heatmaps, index: int, **parts: Any) -> Tile:
    """Return one map as a `Tile`: photo, raw map and place; `parts` are its other fields."""
    from ..render import Tile

    values, sigma = shown(maps, index)
    return Tile(
        photo=photo_of(maps, index, parts.pop("image", None)),
        values=values,
        smoothed=sigma,
        geometry=maps.geometry[index] if maps.geometry is not None else None,
        **parts,
    )


def panel(
    maps: Heatmaps,
    index: int,
    *,
    image: Any = None,
    truth: Any = None,
    mode: str | None = None,
    shared: bool = False,
    title: str | None = None,
    vector: bool = False,
    **options: Any,
) -> Any:
    """See `Heatmaps.panel`, and `Heatmaps.figure` with `vector`."""
    from ..images.picture import Picture
    from ..render import panel, panel_figure

    index = range(len(maps))[index]
    drawn = tile(
        maps,
        index,
        image=image,
        title=headline(maps, index) if title is None else title,
        caption=f"{MEANING} · {facts(maps, index)}",
        truth=None if truth is None else np.asarray(truth),
    )
    scale = scale_of(maps, index, mode, shared)
    if vector:
        return panel_figure(drawn, units=maps.units, scale=scale, **options)
    return Picture.of(panel(drawn, units=maps.units, scale=scale, **options))


def grid(
    results: Heatmaps | Mapping[str, Heatmaps],
    *,
    columns: int | None = None,
    originals: bool = True,
    shared: bool | None = None,
    mode: str | None = None,
    title: str = "",
    **options: Any,
) -> Image:
    """Return a grid of overlays: of the classes or photos in one result, or of several results.

    One result: maps that follow one another on one photo (several classes) stand in a row, else
    photos fill rows of `columns`. Several, by name (methods, layers, models): a row a photo, a
    column a name.

    Args:
        results: `Heatmaps`, or a mapping of names to `Heatmaps` of the same photos.
        columns: how many maps stand in a row, for one result; None: see above, at most 4.
        originals: begin each row with the photo, where each row has one.
        shared: one scale for all maps; None: for one result yes, for several only if method and
            units are the same (then they can be compared), else each map has its own. The picture
            says which.
        mode: see `Heatmaps.normalized`; None: "signed" if any value is negative, else "minmax".
        title: above everything; None: the facts that all maps share.
        options: `colormap`, `alpha` and `side`, see `attnviz.render.grid`.

    Raises:
        DataError: nothing to draw, counts differ, or NaN or infinite values.
    """
    from ..images.picture import Picture
    from ..render import grid

    rows, about = _grid(results, columns, originals, shared, mode, title, **options)
    return Picture.of(grid(rows, **about))


def grid_figure(results: Heatmaps | Mapping[str, Heatmaps], **options: Any) -> Figure:
    """Return what `grid` does as a matplotlib figure, for PDF and SVG; with the same options."""
    from ..render import grid_figure

    rows, about = _grid(results, **options)
    return grid_figure(rows, **about)


def _grid(
    results: Heatmaps | Mapping[str, Heatmaps], columns: int | None = None,
    originals: bool = True, shared: bool | None = None, mode: str | None = None, title: str = "",
    **rest: Any,
) -> tuple[list[list[Tile]], dict[str, Any]]:  # fmt: skip
    from ..render import Tile

    if mode is not None:
        check_mode(mode)
    several = isinstance(results, Mapping)
    named = dict(results) if isinstance(results, Mapping) else {"": results}
    named = {name: as_pictures(maps) for name, maps in named.items()}
    sizes = {name: len(maps) for name, maps in named.items()}
    if not sizes or len(set(sizes.values())) != 1 or 0 in sizes.values():
        raise DataError(f"expected results of the same, not zero, number of maps, got {sizes}")
    for maps in named.values():
        maps.check_finite()
    first = next(iter(named.values()))
    if several:
        groups = [[(name, maps, i) for name, maps in named.items()] for i in range(len(first))]
    else:
        groups = [[("", first, i) for i in group] for group in _rows(first, columns)]
    one_photo = several or all(same_photo(first, [i for _, _, i in g]) for g in groups)
    rows = []
    for group in groups:
        row = [tile(maps, i, **_words(name, maps, i)) for name, maps, i in group]
        if originals and one_photo and row[0].photo is not None:
            words = {headline(maps, i) for _, maps, i in group}
            once = words.pop() if several and len(words) == 1 else ""
            if once:
                row = [replace(t, caption="") for t in row]
            row.insert(0, Tile(row[0].photo, title="photo", caption=once))
        rows.append(row)
    if shared is None:
        shared = len({(m.method, m.units) for m in named.values()}) == 1
    units = {m.units for m in named.values()}
    same = {facts(m, 0) for m in named.values()}
    if len(same) > 1:
        same = {m.meta.get("model", "") for m in named.values()} - {""}
    about = f" · {same.pop()}" if len(same) == 1 else ""
    return rows, {
        "title": title or MEANING.capitalize() + about,
        "units": units.pop() if len(units) == 1 else "",
        "shared": shared,
        "mode": mode,
        **rest,
    }


def joined(parts: Sequence[Heatmaps]) -> Heatmaps:
    """Return maps of one method and layer as one; what some of them lack, the whole lacks.

    Raises:
        DataError: maps of different sizes.
    """
    sizes = {tuple(maps.values.shape[1:]) for maps in parts}
    if len(sizes) > 1:
        raise DataError(f"maps of sizes {sorted(sizes)} do not join; resize to one input size")
    fields: dict[str, Any] = {}
    for name in ("values", "score", "logits", "probability"):
        some = [getattr(p, name) for p in parts]
        fields[name] = None if any(s is None for s in some) else torch.cat(some)
    for name in ("target", "label", "geometry", "images", "sources"):
        some = [getattr(p, name) for p in parts]
        fields[name] = None if any(s is None for s in some) else sum(some, ())
    return replace(parts[0], **fields)


def _rows(maps: Heatmaps, columns: int | None) -> list[list[int]]:
    groups: list[list[int]] = []
    for i in range(len(maps)):
        if columns is None and groups and same_photo(maps, [groups[-1][0], i]):
            groups[-1].append(i)
        else:
            groups.append([i])
    if columns is None and any(len(g) > 1 for g in groups):
        return groups
    step = columns or min(4, len(maps))
    return [list(range(len(maps)))[i : i + step] for i in range(0, len(maps), step)]


def same_photo(maps: Heatmaps, indices: list[int]) -> bool:
    """Return whether some maps are of one photo, by its source or its pixels."""
    if maps.images is not None and (head := maps.images[indices[0]]) is not None:
        photos = [maps.images[i] for i in indices]
        return all(p is head or (p is not None and np.array_equal(p, head)) for p in photos)
    if maps.sources is not None and (source := maps.sources[indices[0]]) is not None:
        return all(maps.sources[i] == source for i in indices)
    return False


def _words(name: str, maps: Heatmaps, index: int) -> dict[str, str]:
    if name:
        return {"title": name, "caption": headline(maps, index)}
    return {"title": headline(maps, index)}


def plot(
    maps: Heatmaps,
    ax: Axes | None,
    index: int,
    *,
    title: str | None = None,
    colorbar: bool = True,
    **options: Any,
) -> Axes:
    """See `Heatmaps.plot`."""
    import matplotlib.pyplot as plt
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize

    from ..render.colour import DEFAULT, DEFAULT_SIGNED, table
    from ..render.tiles import draw_map

    index = range(len(maps))[index]
    scale = scale_of(maps, index, options.get("mode"), options.get("shared", False))
    if photo_of(maps, index, options.get("image")) is None:
        picture = draw_map(tile(maps, index), scale, 448, options.get("colormap"))
    else:
        picture = np.asarray(overlay(maps, index, **options))
    if ax is None:
        _, ax = plt.subplots(layout="constrained")
    ax.imshow(picture)
    ax.set_xticks([])
    ax.set_yticks([])
    said = f"{headline(maps, index)}\n{facts(maps, index)}" if title is None else title
    ax.set_title(said, fontsize=9)
    ax.set_xlabel(MEANING, fontsize=8)
    if scale.is_flat(raw(maps, index)):
        ax.set_xlabel("no evidence: the map is flat", fontsize=8)
        return ax
    if not colorbar:
        return ax
    name = options.get("colormap") or (DEFAULT_SIGNED if scale.signed else DEFAULT)
    colours = ScalarMappable(Normalize(scale.low, scale.high), ListedColormap(table(name) / 255.0))
    # beside the axes and as high as they are, whatever shape the photo has
    bar = ax.figure.colorbar(colours, cax=ax.inset_axes((1.02, 0.0, 0.04, 1.0)))
    bar.set_label(f"{maps.units or 'map value'} ({scale.describe()})", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    return ax
