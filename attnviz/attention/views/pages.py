"""One self-contained page of a record's attention: choose layer, head, patch or token; offline."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from ... import __version__
from ...errors import DataError, OutputExists
from ...templates import template
from ...writing import write_file
from .recording import AttentionRecord, LayerRecord

_LARGEST_SIDE = 640


def page(record: AttentionRecord, *, title: str = "") -> str:
    """Return an HTML page that shows the record; it loads nothing and runs without a network.

    The weights are one byte each: 12 x 12 heads at 256 tokens make about 13 MB.

    Args:
        record: from `attention.views.record`.
        title: of the page.

    Raises:
        DataError: the record holds no layers.
    """
    if not record.layers:
        raise DataError("the record holds no layers, so there is nothing to show")
    blob, layers = _pack(record)
    return template(__package__, "page.html", json=script_json).render(
        title=title or f"Attention of {record.model}",
        version=__version__,
        model=record.model,
        layers=layers,
        image=None if record.image is None else embedded(record.image),
        missed=list(record.missed),
        blob=base64.b64encode(blob).decode("ascii"),
    )


def save_page(
    record: AttentionRecord, path: str | Path, *, title: str = "", force: bool = False
) -> Path:
    """Write `page(record)` to a file, whole or not at all.

    Raises:
        OutputExists: the file exists and `force` is not set.
    """
    path = Path(path)
    if path.exists() and not force:  # said before the work is done
        raise OutputExists(f"{path} exists; choose another name or pass force=True (--force)")
    return write_file(path, page(record, title=title), force=force)


def script_json(value: Any) -> Any:
    """Return JSON that is safe inside a script element: no tag can be closed from within it."""
    from markupsafe import Markup

    text = json.dumps(value, ensure_ascii=True, allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def embedded(image: np.ndarray) -> dict[str, Any]:
    """Return a photo (H, W, 3) as a page holds it: a JPEG of at most 640 px, and its size."""
    from PIL import Image

    picture = Image.fromarray(image)
    picture.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE))
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=90)
    text = base64.b64encode(data.getvalue()).decode("ascii")
    return {
        "source": f"data:image/jpeg;base64,{text}",
        "width": picture.width,
        "height": picture.height,
    }


def _pack(record: AttentionRecord) -> tuple[bytes, list[dict[str, Any]]]:
    """Return all weights in one block of bytes, and what stands where in it."""
    parts: list[bytes] = []
    offset = 0

    def put(array: np.ndarray) -> int:
        nonlocal offset
        data = array.tobytes()
        # every array starts at a multiple of four, so that the page can read it where it lies
        data += b"\0" * (-len(data) % 4)
        parts.append(data)
        offset += len(data)
        return offset - len(data)

    layers = []
    for layer in record.layers:
        windows, heads, queries, keys = layer.codes.shape
        entry = {
            "name": layer.name,
            "kind": layer.kind,
            "windows": windows,
            "heads": heads,
            "queries": queries,
            "keys": keys,
            "scale": put(layer.scale.astype("<f4")),
            "codes": put(layer.codes),
            "queryGrid": layer.query_grid,
            "keyGrid": layer.key_grid,
            "queryTokens": layer.query_tokens,
            "keyTokens": layer.key_tokens,
        }
        for side in ("query", "key"):
            places = getattr(layer, f"{side}_places")
            entry[f"{side}Places"] = None if places is None else put(places.astype("<i4"))
        layers.append(_plain(entry, layer))
    return b"".join(parts), layers


def _plain(entry: dict[str, Any], layer: LayerRecord) -> dict[str, Any]:
    if layer.query_places is not None and layer.codes.shape[0] == 1:
        entry["special"] = int((layer.query_places[0] < 0).sum())
    else:
        entry["special"] = 0
    return entry
