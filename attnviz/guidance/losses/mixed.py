"""Mixed annotation: some masks, some boxes, the rest labels only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from ..annotation import BOX, MASK, SCRIBBLE
from ._base import LOSSES, LossInput, register_loss


@register_loss("mixed", paper="doi:10.1109/TMI.2020.3006138", needs=("forward",))
def mixed(
    scene: LossInput,
    *,
    fine: str = "energy",
    coarse: str = "box",
    strokes: str = "scribble",
    fine_weight: float = 1.0,
    coarse_weight: float = 1.0,
    fine_options: Mapping[str, Any] | None = None,
    coarse_options: Mapping[str, Any] | None = None,
) -> dict[str, Tensor]:
    """Mixed fine and coarse annotation: each image by the loss that fits what is known of it.

    Masks go to `fine`, boxes to `coarse`, scribbles and points to `strokes`; each is a mean over
    its own images, so that a few masks weigh as much as many boxes (Huang et al. 2020).

    Args:
        scene: made by `class_map`.
        fine, coarse, strokes: names of losses.
        fine_weight, coarse_weight: their factors (strokes take the fine one).
        fine_options, coarse_options: options of the losses.

    Returns:
        The parts of the losses, with "fine.", "coarse." and "strokes." before their names.
    """
    parts: dict[str, Tensor] = {}
    for prefix, name, kind, weight, options in (
        ("fine", fine, MASK, fine_weight, fine_options),
        ("coarse", coarse, BOX, coarse_weight, coarse_options),
        ("strokes", strokes, SCRIBBLE, fine_weight, None),
    ):
        if not bool((scene.annotation.kind == kind).any()):
            continue
        own = replace(scene, grid=scene.grid.only(kind), annotation=scene.annotation.only(kind))
        found = LOSSES.get(name).fn.__wrapped__(own, **(options or {}))
        parts |= {f"{prefix}.{part}": weight * value for part, value in found.items()}
    return parts or {"fine": scene.maps.sum() * 0}
