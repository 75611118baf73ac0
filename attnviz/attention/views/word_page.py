"""One offline page of an answer's words: point at a word and see where it looks."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from ... import __version__
from ...errors import OutputExists
from ...templates import template
from ...writing import write_file
from .pages import embedded, script_json

if TYPE_CHECKING:
    from ..word_maps import WordMaps

#: what a reader sees of each method
_SHOWN = {
    "attention": "attention, mean of all layers",
    "tam": "TAM: what speaks for the word, less what other words explain",
    "rollout": "rollout",
    "gradient": "attention weighted by the gradient of the word's logit",
}


def words_page(found: WordMaps, *, title: str = "") -> str:
    """Return an HTML page of all words and their maps; it loads nothing and needs no network.

    A byte a value: forty words of 32 layers over 24 x 24 patches make about 1 MB.

    Args:
        found: from `attention.words`.
        title: of the page.
    """
    height, width = found.image.shape[:2]
    left, top, right, bottom = found.geometry.crop
    kinds = [
        {"name": name, "said": _SHOWN[name], **_packed(values),
         "unit": "logits" if found.heatmaps(name).units == "logit" else "of the row"}
        for name, values in found.maps.items()
    ]  # fmt: skip
    kinds += [
        {"name": f"layer {number + 1}", "said": f"attention of {name}", "unit": "of the row",
         **_packed(found.layers[:, number])}
        for number, name in enumerate(found.names)
    ]  # fmt: skip
    return template(__package__, "words.html", json=script_json).render(
        title=title or f"What {found.model} looks at, word by word",
        version=__version__,
        model=found.model,
        prompt=found.prompt,
        document={
            "text": found.text,
            "spans": [list(span) for span in found.spans],
            "logprob": [round(value, 4) for value in found.logprob.tolist()],
            "image": embedded(found.image),
            "box": [left / width, top / height, right / width, bottom / height],
            "grid": list(found.layers.shape[-2:]),
            "picture": [round(v, 4) for v in (1 - found.text_share.mean(1)).tolist()],
            "kinds": kinds,
            "methods": len(found.maps),
        },
    )


def save_words(found: WordMaps, path: str | Path, *, title: str = "", force: bool = False) -> Path:
    """Write `words_page(found)` to a file, whole or not at all.

    Raises:
        OutputExists: the file exists and `force` is not set.
    """
    path = Path(path)
    if path.exists() and not force:
        raise OutputExists(f"{path} exists; choose another name or pass force=True (--force)")
    return write_file(path, words_page(found, title=title), force=force)


def _packed(values: Tensor) -> dict[str, Any]:
    """Return maps (W, h, w) as bytes, each from 0 to its own largest value, and these."""
    maps = values.float().numpy()
    largest = maps.reshape(len(maps), -1).max(1)
    scaled = maps / np.where(largest > 0, largest, 1)[:, None, None]
    codes = np.rint(255 * scaled.clip(0, 1)).astype(np.uint8)
    return {
        "codes": base64.b64encode(codes.tobytes()).decode("ascii"),
        "largest": [float(f"{value:.4g}") for value in largest],
    }
