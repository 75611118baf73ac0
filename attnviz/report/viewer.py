"""The viewer: many photos and their maps on one offline page, to be sorted, enlarged and faded."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import __version__
from ..errors import DataError
from ..heatmaps import Heatmaps, pictures
from ..render.bar import number
from ..render.colour import DEFAULT, DEFAULT_SIGNED, table
from ..writing import write_file
from .page import template
from .pictures import data_uri

if TYPE_CHECKING:
    from ..render import Scale

#: colour maps that a reader can choose
COLOURS = (DEFAULT, "cividis", "viridis", "gray", DEFAULT_SIGNED)
#: what the page may weigh; photos are stored smaller where there are many
BUDGET = 18_000_000
#: the longer side of a stored photo and of a stored map, at most
LONGEST, MAP = 960, 64


@dataclass(frozen=True)
class Note:
    """What is known of one photo beside its maps.

    Attributes:
        figures: numbers to show and to sort by, name -> value: "energy in mask", "score" ...
        groups: names it can be filtered by: "wrong", "boat on land" ...
        wrong: its prediction is wrong, which is marked.
    """

    figures: Mapping[str, float] | None = None
    groups: Sequence[str] = ()
    wrong: bool = False


#: `Heatmaps` with photos, or what `explain` returns for several methods or layers
Results = Heatmaps | Mapping[Any, Any]


def viewer(
    results: Results | Sequence[Results],
    *,
    title: str = "What the model looks at",
    notes: Sequence[Note] | None = None,
) -> str:
    """Return one HTML page with all photos and maps of some results; it fetches nothing.

    Every map keeps its own scale, which is stated when it is enlarged. Photos that were explained
    for several classes, by several methods or at several layers appear once.

    Args:
        results: `Heatmaps` with photos, or what `explain` returns for several methods or layers;
            or a list of such, each of other photos.
        title: above everything.
        notes: of each photo, in their order.

    Raises:
        DataError: no maps, maps without photos, or not one note a photo.

    Example:
        >>> import attnviz
        >>> maps = attnviz.explain(  # doctest: +SKIP
        ...     attnviz.load(), photos, method=["gradcam", "layercam"]
        ... )
        >>> attnviz.report.write_viewer(maps, "maps.html")  # doctest: +SKIP
    """
    parts = [results] if isinstance(results, Heatmaps | Mapping) else results
    photos = [
        [(maps, row) for maps in flat for row in rows]
        for flat in map(_flat, parts)
        for rows in (_photos(flat[0]) if flat else [])
    ]
    if not photos:
        raise DataError("no maps to show")
    if notes is not None and len(notes) != len(photos):
        raise DataError(f"{len(notes)} notes for {len(photos)} photos; give one a photo")
    longest = longest_side(len(photos))
    notes = [Note()] * len(photos) if notes is None else notes
    items = [
        _item(rows, note, f"photo {at + 1}", longest)
        for at, (rows, note) in enumerate(zip(photos, notes, strict=True))
    ]
    sorts = list(dict.fromkeys(k for i in items for m in i["maps"] for k in m["figures"]))
    document = {
        "items": items,
        "sorts": sorts,
        "groups": list(dict.fromkeys(g for i in items for g in i["groups"])),
        "classes": _classes(photos),
        "colours": {name: _b64(np.rint(table(name)).astype(np.uint8)) for name in COLOURS},
    }
    kinds = {(maps.method, maps.layer): pictures.facts(maps, 0) for maps, _ in photos[0]}
    subtitle = next(iter(kinds.values())) if len(kinds) == 1 else f"{len(kinds)} kinds of maps"
    return template("viewer.html").render(
        title=title, data=_embedded(document),
        subtitle=f"{len(items)} photo{'s' * (len(items) > 1)} · {subtitle}", version=__version__,
    )  # fmt: skip


def write_viewer(
    results: Results | Sequence[Results],
    path: str | Path,
    *,
    title: str = "What the model looks at",
    notes: Sequence[Note] | None = None,
    force: bool = False,
) -> Path:
    """Write `viewer(...)` to a file, whole or not at all; returns its path.

    Raises:
        OutputExists: the file is there and `force` is off.
        DataError: as `viewer`.
    """
    return write_file(path, viewer(results, title=title, notes=notes), force=force)


def longest_side(photos: int) -> int:
    """Return how many pixels a page of so many photos gives the longer side of each."""
    return int(min(LONGEST, 60 + (BUDGET / photos / 0.25) ** 0.5))


def reduced(photo: np.ndarray, longest: int) -> np.ndarray:
    """Return a photo (H, W, 3) uint8 whose longer side has at most so many pixels."""
    import cv2

    factor = longest / max(photo.shape[:2])
    if factor >= 1:
        return photo
    size = tuple(max(1, round(n * factor)) for n in photo.shape[1::-1])
    return cv2.resize(photo, size, interpolation=cv2.INTER_AREA)


def _flat(results: Any) -> list[Heatmaps]:
    if isinstance(results, Heatmaps):
        return [results]
    return [maps for part in results.values() for maps in _flat(part)]


def _photos(maps: Heatmaps) -> list[list[int]]:
    """Rows of one photo, which follow one another, photo by photo."""
    photos: list[list[int]] = []
    for row in range(len(maps)):
        if photos and pictures.same_photo(maps, [photos[-1][0], row]):
            photos[-1].append(row)
        else:
            photos.append([row])
    return photos


def _ranks(rows: Sequence[tuple[Heatmaps, int]]) -> list[int]:
    """Whether a map is the first, second ... of its method and layer: which class it is of."""
    kinds = [(maps.method, maps.layer) for maps, _ in rows]
    return [kinds[:at].count(kind) for at, kind in enumerate(kinds)]


def _classes(photos: Sequence[Sequence[tuple[Heatmaps, int]]]) -> list[str]:
    """A name for the first, second ... class of the photos, where it is one for all."""
    names: dict[int, set[str]] = {}
    for rows in photos:
        for rank, (maps, row) in zip(_ranks(rows), rows, strict=True):
            names.setdefault(rank, set()).add(maps.label[row])
    return [min(n) if len(n) == 1 else f"no. {rank + 1}" for rank, n in sorted(names.items())]


def _item(
    rows: Sequence[tuple[Heatmaps, int]], note: Note, name: str, longest: int
) -> dict[str, Any]:
    """One photo and its maps, as the page's scripts read them."""
    maps, row = rows[0]
    photo = maps.images[row] if maps.images is not None else None
    if photo is None:
        raise DataError(
            f"map {row} has no photo attached (its input was a tensor, or it was loaded "
            "from a file); attach photos with .with_images([...])"
        )
    source = maps.sources[row] if maps.sources is not None else None
    return {
        "name": Path(source).name if source else name,
        "photo": data_uri(photo, quality=82, longest=longest),
        "size": list(photo.shape[:2]),
        "groups": list(note.groups),
        "wrong": note.wrong,
        "maps": [_map(*at, rank, note) for at, rank in zip(rows, _ranks(rows), strict=True)],
    }


def _map(maps: Heatmaps, row: int, rank: int, note: Note) -> dict[str, Any]:
    scale: Scale = pictures.scale_of(maps, row, None, False)
    shown = scale.apply(pictures.shown(maps, row)[0])
    flat = bool(np.isnan(shown).all())
    figures = {"score": float(f"{float(maps.score[row]):.4g}")}
    if maps.probability is not None and not maps.probability[row].isnan():
        figures["probability"] = float(f"{float(maps.probability[row]):.4g}")
    figures |= {k: float(f"{v:.4g}") for k, v in (note.figures or {}).items()}
    return {
        "method": maps.method,
        "layer": maps.layer,
        "rank": rank,
        "title": pictures.headline(maps, row),
        "facts": pictures.facts(maps, row),
        "figures": figures,
        "crop": _crop(maps, row),
        "low": number(scale.low),
        "high": number(scale.high),
        "scale": "no evidence: the map is flat" if flat else f"{maps.units} · {scale.describe()}",
        "signed": scale.signed,
        "colours": DEFAULT_SIGNED if scale.signed else DEFAULT,
        "flat": flat,
    } | _values(shown)


def _values(shown: np.ndarray) -> dict[str, Any]:
    """A map in 256 steps; larger ones than can be told apart are averaged."""
    if max(shown.shape) > MAP:
        import cv2

        factor = MAP / max(shown.shape)
        size = tuple(max(1, round(n * factor)) for n in shown.shape[::-1])
        shown = cv2.resize(shown, size, interpolation=cv2.INTER_AREA)
    steps = np.rint(np.nan_to_num(shown) * 255).astype(np.uint8)
    return {"size": list(steps.shape), "values": _b64(steps)}


def _crop(maps: Heatmaps, row: int) -> list[float]:
    if maps.geometry is None:
        return [0.0, 0.0, 1.0, 1.0]
    geometry = maps.geometry[row]
    left, top, right, bottom = geometry.crop
    height, width = geometry.image_size
    return [left / width, top / height, right / width, bottom / height]


def _b64(array: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode("ascii")


def _embedded(document: Any) -> Any:
    """JSON that cannot end the script element it stands in."""
    from markupsafe import Markup

    text = json.dumps(document, ensure_ascii=True, allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))
