"""One offline page of an answer's words: point at a word and see where it looks."""

from __future__ import annotations

import base64
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from ... import __version__
from ...errors import OutputExists
from ...templates import template
from ...writing import write_file
from .pages import embedded, script_json

if TYPE_CHECKING:
    from ..word_maps import WordMaps

#: no page grows larger, in bytes: what every browser opens at once
_LARGEST = 5_000_000

#: what a reader sees of each method
_SHOWN = {
    "attention": "attention, mean of all layers",
    "tam": "TAM: what speaks for the word, less what other words explain",
    "rollout": "rollout",
    "gradient": "attention weighted by the gradient of the word's logit",
}


def words_page(found: WordMaps, *, title: str = "") -> str:
    """Return an HTML page of all words and their maps; it loads nothing and needs no network.

    A byte a value: forty words of 32 layers over 24 x 24 patches make about 1 MB. Heads are
    compressed and unpacked a layer at a time, when they are looked at.

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
    document: dict[str, Any] = {
        "text": found.text,
        "spans": [list(span) for span in found.spans],
        "logprob": [round(value, 4) for value in found.logprob.tolist()],
        "image": embedded(found.image),
        "box": [left / width, top / height, right / width, bottom / height],
        "grid": list(found.layers.shape[-2:]),
        "picture": [round(v, 4) for v in (1 - found.text_share.mean(1)).tolist()],
        "kinds": kinds,
        "methods": len(found.maps),
    }
    if found.heads:
        document["heads"] = _split(found.heads, _LARGEST - len(script_json(document)) - 50_000)
    return template(__package__, "words.html", json=script_json).render(
        title=title or f"What {found.model} looks at, word by word",
        version=__version__,
        model=found.model,
        prompt=found.prompt,
        document=document,
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
    codes, largest = _steps(values, 255)
    return {
        "codes": base64.b64encode(codes.tobytes()).decode("ascii"),
        "largest": [float(f"{value:.4g}") for value in largest],
    }


def _steps(values: Tensor, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Return maps (..., h, w) in whole steps up to the largest value of each, and these."""
    maps = values.float().numpy()
    largest = maps.max((-2, -1))
    scaled = maps / np.where(largest > 0, largest, 1)[..., None, None]
    return np.rint(steps * scaled.clip(0, 1)).astype(np.uint8), largest


def _split(heads: tuple[Tensor, ...], room: int) -> dict[str, Any]:
    """Return the heads of all layers in so many characters, as finely as that allows."""
    height, width = heads[0].shape[-2:]
    bits, merged = 8, 1
    while True:
        grid = (-(-height // merged), -(-width // merged))
        layers: list[str] = []
        left = room
        for values in heads:
            layers.append(_deflated(values, grid, bits))
            left -= len(layers[-1]) + 3
            if left < 0:
                break
        if left >= 0 or grid == (1, 1):
            return {
                "count": [values.shape[1] for values in heads], "bits": bits, "merged": merged,
                "grid": grid, "layers": layers,
            }  # fmt: skip
        bits, merged = 4, merged if bits == 8 else 2 * merged


def _deflated(values: Tensor, grid: tuple[int, int], bits: int) -> str:
    """Return a layer (W, H, h, w): largest values (H, W), then codes (H, W, rows, columns)."""
    maps = values.float().transpose(0, 1)  # the words of a head are alike: they compress
    if grid != tuple(maps.shape[-2:]):
        maps = F.adaptive_avg_pool2d(maps, grid)
    codes, largest = _steps(maps, 2**bits - 1)
    flat = codes.ravel()
    if bits == 4:
        pairs = np.pad(flat, (0, flat.size % 2)).reshape(-1, 2)
        flat = pairs[:, 0] | pairs[:, 1] << 4
    packer = zlib.compressobj(6, zlib.DEFLATED, -15)
    raw = packer.compress(largest.astype("<f4").tobytes() + flat.tobytes()) + packer.flush()
    return base64.b64encode(raw).decode("ascii")
