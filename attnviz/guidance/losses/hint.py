"""HINT: mean squared distance of the normalised map to the mask."""

from __future__ import annotations

from torch import Tensor

from ..normalising import normalised, positive_part
from ._base import LossInput, mean_over, register_loss
from .l1 import mean_known


@register_loss("hint", paper="arXiv:1902.03751")
def hint(scene: LossInput, *, form: str = "relu") -> dict[str, Tensor]:
    """HINT: mean (A+ - M)^2 of the map normalised by its own maximum (Selvaraju et al. 2019).

    Differs from the paper, whose ranking of region proposals is replaced by the squared distance
    that later code for images uses under this name.

    Args:
        scene: made of maps and annotation.
        form: "relu", "abs" or "softplus", see `positive_part`.

    Returns:
        {"distance": in [0, 1] for the forms "relu" and "abs"}.
    """
    evidence = positive_part(normalised(scene.maps), form)
    distance = mean_known((evidence - scene.grid.target).square(), scene)
    return {"distance": mean_over(distance, scene.grid)}
