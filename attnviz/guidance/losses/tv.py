"""Total variation: smooth maps."""

from __future__ import annotations

from torch import Tensor

from ..normalising import normalised
from ._base import LossInput, register_loss


@register_loss("tv", paper="doi:10.1016/0167-2789(92)90242-F", annotated=False)
def tv(scene: LossInput) -> dict[str, Tensor]:
    """Total variation: mean |difference of neighbours| of the normalised map (Rudin et al. 1992).

    Takes every image, annotated or not. The two directions add up.

    Returns:
        {"variation": in [0, 4]}.
    """
    maps = normalised(scene.maps)
    total = maps.new_zeros(len(maps))
    for axis in (-2, -1):
        if maps.shape[axis] > 1:
            total = total + maps.diff(dim=axis).abs().mean((-2, -1))
    return {"variation": (total * scene.grid.weights).mean() + maps.sum() * 0}
