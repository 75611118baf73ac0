"""Pictures inside a page: maps over photos with outlines, as data URIs."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np

_LONGEST = 288
_SHORTEST = 160


def data_uri(image: np.ndarray, *, quality: int = 85, longest: int = _LONGEST) -> str:
    """Return an image (h, w, 3) uint8 as a JPEG data URI, reduced to `longest` pixels.

    Small ones (below 160 px) are enlarged without smoothing, so that pixels stay pixels; to no
    more than `longest`.
    """
    from PIL import Image

    picture = Image.fromarray(image)
    side = max(picture.size)
    if side > longest:
        picture.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    elif side < _SHORTEST:
        factor = min(-(-_SHORTEST // side), longest // side)
        picture = picture.resize(
            (picture.width * factor, picture.height * factor), Image.Resampling.NEAREST
        )
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def shown_map(example: Any) -> np.ndarray:
    """Return the map over the photo with the object outlined; a map without evidence is not drawn.

    Scaled by its own maximum from zero, as the caption says.
    """
    from ..render import overlay, truth_outline

    photo = enlarged(example.photo)
    values = np.maximum(example.map.astype(np.float32), 0)
    top = float(values.max())
    picture = overlay(photo, values / top if top > 0 else np.zeros_like(values))
    if example.object_mask is not None and example.object_mask.any():
        import cv2

        mask = cv2.resize(
            example.object_mask.astype(np.uint8), (photo.shape[1], photo.shape[0]),
            interpolation=cv2.INTER_NEAREST,
        )  # fmt: skip
        picture = truth_outline(picture, mask.astype(bool))
    return np.asarray(picture)


def enlarged(image: np.ndarray) -> np.ndarray:
    """Return an image whose longest side is at least 160 px, by repeating pixels."""
    factor = -(-_SHORTEST // max(image.shape[:2]))
    return np.repeat(np.repeat(image, factor, 0), factor, 1) if factor > 1 else image
