"""The pointing game: does the map's maximum lie on the object?"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import MetricError
from ._localise import against_masks, skip
from ._register import register_metric
from .protocol import Protocol
from .scores import Scores


@register_metric(
    "pointing",
    family="localisation",
    needs=("masks",),
    higher_is_better=True,
    paper="arXiv:1608.00507",
    aliases=("pointing_game",),
)
def pointing(maps: Any, masks: Any, *, tolerance: float = 15) -> Scores:
    """Pointing game: 1 where the map's maximum hits the object, within a tolerance in pixels.

    Zhang, Lin, Brandt, Shen & Sclaroff, "Top-down Neural Attention by Excitation Backprop" (ECCV
    2016, arXiv:1608.00507). Read it beside the centre control: photographers centre objects.

    Args:
        maps: (B, h, w), resized to the masks' size.
        masks: (B, H, W) where the object is.
        tolerance: distance to the nearest pixel of the object, in pixels, that is still a hit
            (the paper: 15).

    Returns:
        `Scores` in [0, 1]; where several pixels share the maximum, the share of them that hit.
        Skipped, never a hit: empty and full masks, constant maps, maps with NaN.
    """
    if tolerance < 0:
        raise MetricError(f"tolerance={tolerance}, expected 0 or more pixels")
    values, inside, reasons = against_masks(maps, masks)
    found = values.new_zeros(len(values))
    for number, (row, mask) in enumerate(zip(values, inside, strict=True)):
        if reasons[number] is None:
            top = row == row.max()
            near = mask if tolerance == 0 else _distance(mask) <= tolerance
            found[number] = near[top].to(found.dtype).mean()
    protocol = Protocol.of(
        "pointing", f"{tolerance:g} px", higher_is_better=True, tolerance=tolerance
    )
    return Scores(skip(found, reasons), protocol, tuple(reasons))


def _distance(mask: Tensor) -> Tensor:
    """Return the Euclidean distance of each pixel to the nearest pixel of a mask (H, W)."""
    import cv2

    outside = (~mask).to(torch.uint8).cpu().numpy()
    return torch.from_numpy(cv2.distanceTransform(outside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)).to(
        mask.device
    )
