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


def viewer(
    results: Heatmaps | Mapping[str, Any],
    *,
    title: str = "What the model looks at",
    notes: Sequence[Note] | None = None,
) -> str:
    """Return one HTML page with all photos and maps of some results; it fetches nothing.

    Every map keeps its own scale, which is stated when it is enlarged. Photos that were explained
    for several classes, by several methods or at several layers appear once.

    Args:
        results: `Heatmaps` with photos, or what `explain` returns for several methods or layers.
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
    flat = _flat(results)
    if not flat or not len(flat[0]):
        raise DataError("no maps to show")
    photos = _photos(flat[0])
    if notes is not None and len(notes) != len(photos):
        raise DataError(f"{len(notes)} notes for {len(photos)} photos; give one a photo")
    longest = int(min(LONGEST, 60 + (BUDGET / len(photos) / 0.25) ** 0.5))
    items: list[dict[str, Any]] = []
    for at, rows in enumerate(photos):
        note = notes[at] if notes is not None else Note()
        photo = flat[0].images[rows[0]] if flat[0].images is not None else None
        if photo is None:
            raise DataError(
                f"map {rows[0]} has no photo attached (its input was a tensor, or it was loaded "
                "from a file); attach photos with .with_images([...])"
            )
        source = flat[0].sources[rows[0]] if flat[0].sources is not None else None
        items.append({
            "name": Path(source).name if source else f"photo {at + 1}",
            "photo": data_uri(photo, quality=82, longest=longest),
            "size": list(photo.shape[:2]),
            "groups": list(note.groups),
            "wrong": note.wrong,
            "maps": [
                _map(maps, row, rank, note) for maps in flat for rank, row in enumerate(rows)
            ],
        })  # fmt: skip
    sorts = list(dict.fromkeys(k for i in items for m in i["maps"] for k in m["figures"]))
    document = {
        "items": items,
        "sorts": sorts,
        "groups": list(dict.fromkeys(g for i in items for g in i["groups"])),
        "classes": _classes(flat[0], photos),
        "colours": {name: _b64(np.rint(table(name)).astype(np.uint8)) for name in COLOURS},
    }
    facts = {pictures.facts(maps, 0) for maps in flat}
    subtitle = facts.pop() if len(facts) == 1 else f"{len(flat)} kinds of maps"
    return template("viewer.html").render(
        title=title, subtitle=f"{len(items)} photos · {subtitle}", data=_embedded(document),
        version=__version__,
    )  # fmt: skip


def write_viewer(
    results: Heatmaps | Mapping[str, Any],
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


def _classes(maps: Heatmaps, photos: list[list[int]]) -> list[str]:
    """A name for the first, second ... class of the photos, where it is one for all."""
    names = []
    for rank in range(max(map(len, photos))):
        labels = {maps.label[rows[rank]] for rows in photos if rank < len(rows)}
        names.append(labels.pop() if len(labels) == 1 else f"no. {rank + 1}")
    return names


def _map(maps: Heatmaps, row: int, rank: int, note: Note) -> dict[str, Any]:
    scale: Scale = pictures.scale_of(maps, row, None, False)
    shown = scale.apply(pictures.shown(maps, row)[0])
    flat = bool(np.isnan(shown).all())
    figures = {"score": float(f"{float(maps.score[row]):.4g}")}
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
