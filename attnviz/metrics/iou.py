"""Overlap of a thresholded map with a mask, and of its box with annotated boxes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import MetricError
from ..geometry import size_of
from ._inputs import as_boxes, as_maps, finite_reasons, is_flat, resize_maps
from ._localise import against_masks, skip
from ._register import register_metric
from .protocol import Protocol
from .scores import Scores


def above(maps: Tensor, threshold: float) -> Tensor:
    """Return where maps (B, H, W) exceed `threshold` of their own range, min 0 to max 1; bool."""
    low = maps.amin((1, 2), keepdim=True)
    return maps - low > threshold * (maps.amax((1, 2), keepdim=True) - low)


def component_boxes(region: Tensor) -> tuple[Tensor, Tensor]:
    """Return the boxes of a region's connected parts (eight neighbours), largest part first.

    Args:
        region: (H, W) bool.

    Returns:
        (n, 4) float64 half-open (x0, y0, x1, y1), and (n,) the parts' pixel counts.
    """
    import cv2

    _, _, stats, _ = cv2.connectedComponentsWithStats(
        np.ascontiguousarray(region.to(torch.uint8).cpu().numpy()), connectivity=8
    )
    parts = stats[1:].astype(np.float64)
    parts = parts[np.argsort(-parts[:, cv2.CC_STAT_AREA], kind="stable")]
    boxes = np.stack(
        [parts[:, 0], parts[:, 1], parts[:, 0] + parts[:, 2], parts[:, 1] + parts[:, 3]], 1
    )
    return torch.from_numpy(boxes), torch.from_numpy(parts[:, cv2.CC_STAT_AREA])


def overlaps(a: Tensor, b: Tensor, *, inclusive: bool = False) -> Tensor:
    """Return the IoU of boxes a (n, 4) and b (m, 4), (n, m).

    Args:
        a: (x0, y0, x1, y1), half-open.
        b: likewise.
        inclusive: x1 and y1 are the last pixels rather than the first beyond (legacy only).
    """
    one = 1.0 if inclusive else 0.0
    low = torch.maximum(a[:, None, :2], b[None, :, :2])
    high = torch.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = (high - low + one).clamp_min(0).prod(2)
    areas = [(boxes[:, 2:] - boxes[:, :2] + one).prod(1) for boxes in (a, b)]
    union = areas[0][:, None] + areas[1][None] - shared
    return torch.where(union > 0, shared / torch.where(union > 0, union, 1.0), 0.0)


@register_metric("iou", family="localisation", needs=("masks",), higher_is_better=True)
def iou(maps: Any, masks: Any, *, threshold: float = 0.5) -> Scores:
    """IoU: overlap of the map's brighter part with the mask, intersection over union.

    Args:
        maps: (B, h, w), resized to the masks' size.
        masks: (B, H, W) where the object is.
        threshold: a pixel counts above this share of the map's own range, minimum to maximum.

    Returns:
        `Scores` in [0, 1]. Skipped: empty masks, constant maps, maps with NaN.
    """
    _check(threshold)
    values, inside, reasons = against_masks(maps, masks, full=False)
    region = above(values, threshold)
    shared = (region & inside).flatten(1).sum(1).to(values.dtype)
    union = (region | inside).flatten(1).sum(1).to(values.dtype)
    protocol = Protocol.of(
        "iou", f"{threshold:g} of range", higher_is_better=True, threshold=threshold
    )
    return Scores(skip(shared / union, reasons), protocol, tuple(reasons))


@register_metric("box_iou", family="localisation", needs=("boxes",), higher_is_better=True)
def box_iou(
    maps: Any, boxes: Any, *, threshold: float = 0.5, size: tuple[int, int] | None = None
) -> Scores:
    """Box IoU: overlap of the box around the map's largest bright part with the nearest true box.

    Args:
        maps: (B, h, w).
        boxes: per image its boxes (n, 4), half-open (x0, y0, x1, y1) in pixels of `size`.
        threshold: a pixel counts above this share of the map's own range.
        size: (H, W) that maps are resized to first; None leaves them as they are.

    Returns:
        `Scores` in [0, 1]. Skipped: images without boxes, constant maps, maps with NaN.
    """
    _check(threshold)
    values, truth, reasons = against_boxes(maps, boxes, size)
    found = values.new_zeros(len(values), dtype=torch.float64)
    region = above(values, threshold)
    for number, rows in each_kept(truth, reasons):
        mine, _ = component_boxes(region[number])
        found[number] = overlaps(mine[:1], rows).max()
    protocol = Protocol.of(
        "box_iou", f"{threshold:g} of range", higher_is_better=True, threshold=threshold
    )
    return Scores(skip(found, reasons), protocol, tuple(reasons))


def against_boxes(
    maps: Any, boxes: Any, size: tuple[int, int] | None
) -> tuple[Tensor, list[Tensor], list[str | None]]:
    """Return maps at `size`, each image's boxes (n, 4), and reasons to skip."""
    values = as_maps(maps)
    truth = as_boxes(boxes, len(values))
    reasons = [
        reason or ("no box" if not len(rows) else "flat map" if flat else None)
        for reason, rows, flat in zip(
            finite_reasons(values), truth, is_flat(values).tolist(), strict=True
        )
    ]
    return resize_maps(values, size or size_of(values)), truth, reasons


def each_kept(truth: list[Tensor], reasons: list[str | None]) -> Iterator[tuple[int, Tensor]]:
    """Yield number and boxes of the images that are not skipped."""
    for number, (rows, reason) in enumerate(zip(truth, reasons, strict=True)):
        if reason is None:
            yield number, rows


def _check(threshold: float) -> None:
    if not 0 <= threshold < 1:
        raise MetricError(
            f"threshold={threshold}, expected a share of the map's range, 0 up to but not 1"
        )
