"""What localisation metrics share: a map at the annotation's size, and who is skipped."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..geometry import size_of
from ._inputs import as_maps, as_masks, finite_reasons, is_flat, resize_maps, with_reason


def against_masks(
    maps: Any, masks: Any, *, flat: bool = True, full: bool = True
) -> tuple[Tensor, Tensor, list[str | None]]:
    """Return maps (B, H, W) at the masks' size, masks (B, H, W) bool, and reasons to skip.

    Args:
        maps: (B, h, w), resized bilinearly.
        masks: (B, H, W) ground truth.
        flat: skip constant maps.
        full: skip masks that cover the whole image: nothing can lie outside them.
    """
    values = as_maps(maps)
    inside = as_masks(masks, len(values), values.device)
    covered = inside.flatten(1)
    reasons = with_reason([None] * len(values), ~covered.any(1), "empty mask")
    reasons = [r or unfit for r, unfit in zip(reasons, finite_reasons(values), strict=True)]
    if full:
        reasons = with_reason(reasons, covered.all(1), "full mask")
    if flat:
        reasons = with_reason(reasons, is_flat(values), "flat map")
    return resize_maps(values, size_of(inside)), inside, reasons


def skip(values: Tensor, reasons: list[str | None]) -> Tensor:
    """Return values with NaN where there is a reason to skip."""
    out = torch.tensor([r is not None for r in reasons], device=values.device)
    return values.masked_fill(out, float("nan"))
