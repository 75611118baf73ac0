"""RES: masks drawn by hand are taken with tolerance."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..normalising import normalised, positive_part
from ._base import LossInput, mean_over, register_loss


@register_loss("res", paper="arXiv:2206.13413")
def res(
    scene: LossInput, *, tolerance: float = 0.1, border: int = 0, form: str = "relu"
) -> dict[str, Tensor]:
    """RES: distances inside and outside the mask beyond a tolerance (after Gao et al. 2022).

    relu(mean over the inside of |1 - A+| - h) + relu(mean over the outside of A+ - h). Positions
    that the mask covers in part, and `border` positions around them, are not asked: hand-drawn
    borders are wrong there. Differs from the paper, whose learned imputation of the border this
    band replaces.

    Args:
        scene: made of maps and annotation.
        tolerance: h, in units of the normalised map.
        border: width in positions of the map of the band on either side of the mask's edge.
        form: "relu", "abs" or "softplus", see `positive_part`.

    Returns:
        {"inside": , "outside": }, each in [0, 1] for the forms "relu" and "abs".
    """
    evidence = positive_part(normalised(scene.maps), form)
    target, known = scene.grid.target, scene.grid.known
    # an object smaller than a position of the map covers none in full: its best-covered one counts
    most = (target * known).amax((-2, -1), keepdim=True).clamp_min(1e-12)
    inside = ((target >= most * (1 - 1e-6)) & (known > 0)).to(evidence)
    outside = ((target == 0) & (known > 0)).to(evidence)
    if border:
        eroded = 1 - _grown(1 - inside, border)
        inside = torch.where(eroded.sum((-2, -1), keepdim=True) > 0, eroded, inside)
        outside = outside * (1 - _grown(1 - outside, border))
    return {
        name: mean_over((_mean(distance, region) - tolerance).relu(), scene.grid)
        for name, distance, region in (
            ("inside", (1 - evidence).abs(), inside),
            ("outside", evidence, outside),
        )
    }


def _mean(values: Tensor, region: Tensor) -> Tensor:
    return (values * region).sum((-2, -1)) / region.sum((-2, -1)).clamp_min(1e-12)


def _grown(region: Tensor, by: int) -> Tensor:
    return F.max_pool2d(region[:, None], 2 * by + 1, stride=1, padding=by)[:, 0]
