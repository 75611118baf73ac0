"""Images, maps, masks and boxes as metrics take them: checked, never changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import MetricError
from ..geometry import size_of


def as_images(x: Any) -> Tensor:
    """Return the model's input (B, C, H, W), detached.

    Raises:
        MetricError: not a floating-point batch of at least one image.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.ndim != 4 or not x.numel():
        got = f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise MetricError(
            f"images are {got}, expected the model's own input: a float tensor (B, C, H, W) with "
            "B > 0"
        )
    return x.detach()


def _as_tensor(values: Any, what: str) -> Tensor:
    if not isinstance(values, Tensor | np.ndarray):
        values = getattr(values, "values", values)  # Heatmaps
    if isinstance(values, np.ndarray):
        return torch.from_numpy(np.array(values))  # a copy: the caller's may be read-only
    if isinstance(values, Tensor):
        return values.detach()
    try:
        return torch.as_tensor(np.asarray(values))
    except (TypeError, ValueError) as fault:
        raise MetricError(
            f"{what} are {type(values).__name__}, expected a tensor: {fault}"
        ) from None


def as_maps(maps: Any, batch: int | None = None, device: torch.device | None = None) -> Tensor:
    """Return maps (B, h, w) in float32 or float64: a tensor, numpy array, Heatmaps, (B, 1, h, w).

    Raises:
        MetricError: of another shape, empty, or not one map per image.
    """
    values = _as_tensor(maps, "maps")
    if values.ndim == 4 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 3 or not values.numel() or values.is_complex():
        raise MetricError(
            f"maps have shape {tuple(values.shape)}, expected (B, h, w): one map per image. Sum an "
            "attribution over its channels first: attribution.sum(1)"
        )
    if batch is not None and len(values) != batch:
        raise MetricError(f"{len(values)} maps for {batch} images; expected one map per image")
    if values.dtype != torch.float64:
        values = values.float()
    return values if device is None else values.to(device)


def as_masks(masks: Any, batch: int, device: torch.device | None = None) -> Tensor:
    """Return ground-truth masks (B, H, W) bool, True inside.

    Raises:
        MetricError: of another shape, not one per image, or of values other than 0 and 1.
    """
    values = _as_tensor(masks, "masks")
    if values.ndim == 4 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 3 or len(values) != batch:
        raise MetricError(
            f"masks have shape {tuple(values.shape)}, expected ({batch}, H, W): one per map"
        )
    if values.dtype != torch.bool:
        if not bool(((values == 0) | (values == 1)).all()):
            raise MetricError(
                "masks hold values other than 0 and 1; choose the class first: masks = labels == 3"
            )
        values = values != 0
    return values if device is None else values.to(device)


def as_boxes(boxes: Any, batch: int) -> list[Tensor]:
    """Return ground-truth boxes, per image (n, 4) float64, half-open (x0, y0, x1, y1).

    Args:
        boxes: per image one box or a list of them; a tensor (B, 4) or (B, n, 4) will do.
        batch: number of images.

    Raises:
        MetricError: not one entry per image, or a box of no width or height.
    """
    if len(boxes) != batch:
        raise MetricError(f"boxes of {len(boxes)} images for {batch} maps; expected one entry each")
    found = []
    for number, entry in enumerate(boxes):
        if not isinstance(entry, Tensor | np.ndarray) and isinstance(entry, Sequence):
            entry = [getattr(box, "coordinates", box) for box in entry]
        rows = torch.as_tensor(np.asarray(entry, dtype=np.float64)).reshape(-1, 4)
        if bool((rows[:, 2:] <= rows[:, :2]).any()):
            raise MetricError(
                f"a box of image {number} is empty; expected x0 < x1 and y0 < y1, half-open "
                f"(x0, y0, x1, y1), got {rows.tolist()}"
            )
        found.append(rows)
    return found


def finite_reasons(maps: Tensor) -> list[str | None]:
    """Return per map None, or why it cannot be judged: it holds NaN or infinity."""
    finite = torch.isfinite(maps).flatten(1).all(1).tolist()
    return [None if ok else "map not finite" for ok in finite]


def with_reason(reasons: Sequence[str | None], where: Tensor, why: str) -> list[str | None]:
    """Return the reasons, with `why` for the images that have none and where (B,) is True."""
    return [r or (why if w else None) for r, w in zip(reasons, where.tolist(), strict=True)]


def kept(reasons: Sequence[str | None], device: torch.device) -> Tensor:
    """Return the indices of the images without a reason to skip them."""
    return torch.tensor(
        [i for i, reason in enumerate(reasons) if reason is None], dtype=torch.long, device=device
    )


def resize_maps(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Return maps (B, H, W) by bilinear interpolation between cell centres, or as they are.

    Interpolation comes before a ranking, so a monotone transform of a coarse map may change
    which of two pixels between its cells ranks higher; at the input's size it never does.
    """
    if size_of(maps) == tuple(size):
        return maps
    shrinks = size[0] < maps.shape[-2] or size[1] < maps.shape[-1]
    return F.interpolate(
        maps[:, None], size=size, mode="bilinear", align_corners=False, antialias=shrinks
    )[:, 0]


def stretched(maps: Tensor) -> Tensor:
    """Return maps (B, h, w) stretched to [0, 1] each; a constant one becomes zeros."""
    low = maps.amin((1, 2), keepdim=True)
    span = maps.amax((1, 2), keepdim=True) - low
    return torch.where(span > 0, (maps - low) / torch.where(span > 0, span, 1.0), 0.0)


def is_flat(maps: Tensor) -> Tensor:
    """Return (B,) True where all values of a map are equal."""
    flat = maps.flatten(1)
    return flat.amax(1) == flat.amin(1)
