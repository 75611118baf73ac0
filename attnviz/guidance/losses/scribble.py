"""Scribbles and points: the map is asked only where a stroke says something."""

from __future__ import annotations

import torch
from torch import Tensor

from ._base import LossInput, mean_over, register_loss
from .ppce import pixel_cross_entropy


@register_loss("scribble", paper="arXiv:1804.01346; arXiv:1506.02106", aliases=("points",))
def scribble(
    scene: LossInput, *, steepness: float = 10.0, threshold: float = 0.5
) -> dict[str, Tensor]:
    """Partial cross-entropy on strokes and points (Tang et al. 2018, Bearman et al. 2016).

    Strokes on the object and on the background count equally, however long they are; what lies
    between is not asked. Masks and boxes are taken as strokes that cover everything.

    Args:
        scene: made of maps and annotation.
        steepness, threshold: of the sigmoid, as in `ppce`.

    Returns:
        {"object": , "background": }, each at least 0 in nats.
    """
    values = pixel_cross_entropy(scene, steepness, threshold)
    parts = {}
    for name, weight in (
        ("object", scene.grid.known * scene.grid.target),
        ("background", scene.grid.known * (1 - scene.grid.target)),
    ):
        area = weight.sum((-2, -1))
        per_image = torch.where(
            area > 0, (values * weight).sum((-2, -1)) / area.clamp_min(1e-12), values.sum() * 0
        )
        parts[name] = 0.5 * mean_over(per_image, scene.grid)
    return parts
