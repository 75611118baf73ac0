"""GAIN_ext: attention mining plus pixel supervision of the map."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..normalising import normalised, positive_part
from ._base import LossInput, mean_over, register_loss
from .gain import gain
from .l1 import mean_known


@register_loss(
    "gain_ext", paper="arXiv:1802.10171", needs=("forward", "one_class"), annotated=False,
    aliases=("gain-ext",), passes="gain",
)  # fmt: skip
def gain_ext(
    scene: LossInput, *, omega: float = 10.0, form: str = "relu", **mining: Any
) -> dict[str, Tensor]:
    """GAIN_ext: GAIN + omega mean (A - H)^2 over the annotated images (Li et al. 2018).

    At the paper's omega = 10 and without warm-up the quickest way down is a map that is zero
    everywhere, and a network that says "no object" to everything: use it with the guards of
    `guidance.fit`, which are on by default.

    Args:
        scene: made by `class_map(..., against=None)`: what is mined is the class's own evidence,
            not a margin's (`fit` sees to it).
        omega: weight of the pixel supervision; the mean runs over pixels.
        form: "relu" (the paper's), "abs" or "softplus", see `positive_part`.
        **mining: options of `gain`.

    Returns:
        The parts of `gain`, and {"pixels": omega times [0, 1]}.
    """
    evidence = positive_part(normalised(scene.maps), form)
    distance = mean_known((evidence - scene.grid.target).square(), scene)
    return {**gain.__wrapped__(scene, **mining), "pixels": omega * mean_over(distance, scene.grid)}
