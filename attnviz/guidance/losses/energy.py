"""Energy: the share of the evidence that lies on the object."""

from __future__ import annotations

from torch import Tensor

from ..normalising import positive_part
from ._base import LossInput, mean_over, register_loss


@register_loss("energy", paper="arXiv:2303.11932")
def energy(scene: LossInput, *, form: str = "abs", beta: float = 10.0) -> dict[str, Tensor]:
    """Energy: 1 - sum(M A+) / sum(A+) (Rao et al. 2023), M the mask or box, A+ the evidence.

    Differs from the paper in the default form: with "relu" the loss is lowest and its gradient
    gone when the map is negative everywhere, which is where strong guidance drives it.

    Args:
        scene: made of maps and annotation.
        form: "abs" (evidence of either sign), "softplus" or "relu" (the paper's).
        beta: sharpness of the softplus.

    Returns:
        {"outside": in [0, 1]}.
    """
    evidence = positive_part(scene.maps, form, beta=beta) * scene.grid.known
    inside = (evidence * scene.grid.target).sum((-2, -1))
    # the floor is far below any live map, and keeps 0 / 0 of a dead one from becoming NaN
    share = inside / evidence.sum((-2, -1)).clamp_min(1e-12)
    return {"outside": mean_over(1 - share, scene.grid)}
