"""Per-pixel cross-entropy of the map with the mask."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..normalising import normalised
from ._base import LossInput, mean_over, register_loss
from .l1 import mean_known


def pixel_cross_entropy(scene: LossInput, steepness: float, threshold: float) -> Tensor:
    """Return -log p of the known state of each position, (B, h, w)."""
    logits = steepness * (normalised(scene.maps) - threshold)
    return F.binary_cross_entropy_with_logits(logits, scene.grid.target, reduction="none")


@register_loss("ppce", paper="arXiv:2303.11932", aliases=("per-pixel-cross-entropy",))
def ppce(
    scene: LossInput, *, steepness: float = 10.0, threshold: float = 0.5, inside: bool = False
) -> dict[str, Tensor]:
    """Per-pixel cross-entropy: is this position on the object? (Rao et al. 2023).

    p = sigmoid(steepness (A - threshold)), A the map normalised by its own maximum. Differs from
    the paper, which takes the logarithm of the normalised map itself: that has no gradient where
    the map is negative, just where it is wrong most.

    Args:
        scene: made of maps and annotation.
        steepness, threshold: of the sigmoid.
        inside: the paper's one-sided form, which asks for evidence inside and lets the outside be.

    Returns:
        {"cross_entropy": at least 0, in nats}.
    """
    values = pixel_cross_entropy(scene, steepness, threshold)
    if inside:
        target = scene.grid.target * scene.grid.known
        per_image = (values * target).sum((-2, -1)) / target.sum((-2, -1)).clamp_min(1e-12)
    else:
        per_image = mean_known(values, scene)
    return {"cross_entropy": mean_over(per_image, scene.grid)}
