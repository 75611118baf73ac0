"""L1 distance of the normalised map to the mask."""

from __future__ import annotations

from torch import Tensor

from ..normalising import normalised, positive_part
from ._base import LossInput, mean_over, register_loss


def mean_known(values: Tensor, scene: LossInput) -> Tensor:
    """Return the mean over the positions that something is known of, (B,)."""
    known = scene.grid.known
    return (values * known).sum((-2, -1)) / known.sum((-2, -1)).clamp_min(1e-12)


@register_loss("l1", paper="arXiv:2303.11932")
def l1(scene: LossInput, *, form: str = "relu") -> dict[str, Tensor]:
    """L1: mean |A+ - M| of the map normalised by its own maximum (Rao et al. 2023).

    Args:
        scene: made of maps and annotation.
        form: "relu" (the paper's), "abs" or "softplus", see `positive_part`.

    Returns:
        {"l1": in [0, 1] for the forms "relu" and "abs"}.
    """
    evidence = positive_part(normalised(scene.maps), form)
    return {"l1": mean_over(mean_known((evidence - scene.grid.target).abs(), scene), scene.grid)}
