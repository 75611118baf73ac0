"""Maps on the pixels of the photo: resizing, masks and boxes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..errors import DataError
from ..geometry import Geometry
from ..render.place import place, place_tensor
from ..render.scaling import check_mode, normalise

if TYPE_CHECKING:
    from .core import Heatmaps

#: `meta["nan"]` of maps whose NaN are no fault
OUTSIDE = "outside the crop"


#: interpolation by the number of axes
_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


def resize(maps: Heatmaps, size: int | tuple[int, ...] | str) -> Heatmaps:
    """See `Heatmaps.resize`."""
    if size == "photo" and maps.rank == 2:
        return _on_photo(maps)
    if size == "input":
        known = maps.meta.get("input_size")
        size = tuple(known) if known and len(known) == maps.rank else _one(maps, "input_size")
    if isinstance(size, (int, np.integer)):
        size = (size,) * maps.rank
    if isinstance(size, str) or len(size) != maps.rank or min(size) < 1:
        axes = {1: "(length,)", 2: "(height, width)", 3: "(depth, height, width)"}[maps.rank]
        raise DataError(
            f"size is {size!r}; expected a number of pixels, {axes}, 'input'"
            + (" or 'photo'" if maps.rank == 2 else "")
        )
    if maps.meta.get("nan") == OUTSIDE:
        raise DataError("these maps lie on the photo already; resize the ones they came from")
    shape, own = tuple(int(n) for n in size), maps.values.shape[1:]
    values = maps.values[:, None]
    shrinks = any(a < b for a, b in zip(shape, own, strict=True))
    if shrinks and maps.rank != 2:  # torch has antialias=True for pictures alone
        smaller = tuple(map(min, shape, own))
        values = torch.nn.functional.interpolate(values, size=smaller, mode="area")
    values = torch.nn.functional.interpolate(
        values,
        size=shape,
        mode=_LINEAR[maps.rank],
        align_corners=False,
        antialias=shrinks and maps.rank == 2,
    )[:, 0]
    return replace(maps, values=values, meta=_meta(maps))


def _on_photo(maps: Heatmaps) -> Heatmaps:
    height, width = _one(maps, "image_size")
    assert maps.geometry is not None
    rows = [place_tensor(v[None], g) for v, g in zip(maps.values, maps.geometry, strict=True)]
    values = torch.cat(rows) if rows else maps.values.new_zeros((0, height, width))
    return replace(
        maps,
        values=values,
        geometry=tuple(Geometry.identity(height, width) for _ in rows),
        meta={**_meta(maps), "nan": OUTSIDE},
    )


def _meta(maps: Heatmaps) -> dict[str, Any]:
    """Return the maps' meta with the size they were computed at, which captions give."""
    return {"map_size": list(maps.values.shape[1:]), **maps.meta}


def _one(maps: Heatmaps, name: str) -> tuple[int, int]:
    if not maps.geometry:
        raise DataError(
            "these maps do not know their photo (no geometry); pass a size (height, width)"
        )
    sizes = {tuple(getattr(g, name)) for g in maps.geometry}
    if len(sizes) > 1:
        raise DataError(
            f"the maps have {len(sizes)} different {name.replace('_', ' ')}s, such as "
            f"{sorted(sizes)[:2]}; index one map first, or pass a size (height, width)"
        )
    return sizes.pop()


def masks(maps: Heatmaps, threshold: float, mode: str) -> list[np.ndarray]:
    """See `Heatmaps.masks`."""
    check_mode(mode)
    if not 0.0 < threshold <= 1.0:
        raise DataError(f"threshold is {threshold}; expected a fraction above 0, at most 1")
    maps.check_finite()
    values = normalise(maps.values.detach(), mode).float().cpu().numpy()
    out = []
    for index, value in enumerate(values):
        if maps.geometry is not None:
            value = place(value, maps.geometry[index])
        with np.errstate(invalid="ignore"):
            out.append(value >= np.float32(threshold))  # NaN, outside the crop, is False
    return out


def boxes(maps: Heatmaps, threshold: float, mode: str, which: str) -> list[np.ndarray]:
    """See `Heatmaps.boxes`."""
    if maps.rank != 2:
        raise DataError(f"boxes are of pictures; these maps have {maps.rank} axes: use masks()")
    if which not in ("largest", "all"):
        raise DataError(f"which is {which!r}; expected 'largest' or 'all'")
    return [
        mask_boxes(mask)[: 1 if which == "largest" else None]
        for mask in masks(maps, threshold, mode)
    ]


def mask_boxes(mask: np.ndarray) -> np.ndarray:
    """Return the boxes of the connected regions of a mask, largest region first, (n, 4) int64."""
    import cv2

    _, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    stats = stats[1:].astype(np.int64)  # the first is the background
    stats = stats[np.argsort(-stats[:, cv2.CC_STAT_AREA], kind="stable")]
    left, top, width, height = stats[:, :4].T
    return np.stack([left, top, left + width, top + height], axis=1)
