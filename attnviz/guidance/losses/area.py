"""Area: no more of the image than is needed."""

from __future__ import annotations

from torch import Tensor

from ..normalising import normalised, positive_part
from ._base import LossInput, register_loss


@register_loss("area", paper="arXiv:1704.03296", annotated=False)
def area(scene: LossInput, *, most: float = 0.0, form: str = "relu") -> dict[str, Tensor]:
    """Area: the mean of the map normalised by its maximum (after Fong & Vedaldi 2017).

    Takes every image, annotated or not.

    Args:
        scene: made of maps and annotation.
        most: share of the image that costs nothing.
        form: "relu", "abs" or "softplus", see `positive_part`.

    Returns:
        {"area": in [0, 1] for the forms "relu" and "abs"}.
    """
    share = positive_part(normalised(scene.maps), form).mean((-2, -1))
    return {"area": ((share - most).relu() * scene.grid.weights).mean()}
