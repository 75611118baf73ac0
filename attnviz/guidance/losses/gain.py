"""GAIN: without what the map shows, the class should be gone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...geometry import size_of
from ._base import LossInput, register_loss
from ._mining import erased_logits, remaining, soft_mask


@register_loss("gain", paper="arXiv:1802.10171", needs=("forward", "one_class"), annotated=False)
def gain(
    scene: LossInput,
    *,
    alpha: float = 1.0,
    area: float = 0.1,
    steepness: float = 10.0,
    threshold: float = 0.5,
    fill: str = "blur",
    score: str = "margin",
    only: Sequence[int] | None = None,
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """GAIN: alpha (1/n) sum s_c(I - T(A) I), two streams of one network (Li et al. 2018).

    Takes every image, annotated or not. The map stays part of the graph, so the network learns to
    cover all of the object; the second forward leaves BatchNorm's statistics alone.

    Differs from the paper: the region is filled (`fill="zero"` is the paper's), the score is
    bounded below (`score="logit"`), and the erased area costs (`area=0`): without that the
    optimum is to erase everything.

    Args:
        scene: made by `class_map(..., against=None)`: what is mined is the class's own evidence,
            not a margin's (`fit` sees to it).
        alpha: weight of what remains of the class.
        area: weight of the erased area.
        steepness, threshold: of the soft mask, see `soft_mask`; the paper gives none.
        fill: see `attnviz.erasing.FILLS`; every image is filled alike, whatever its class.
        score: see `remaining`.
        only: mine images of these classes only (leave out a class that means "nothing").
        generator: for fill="noise".

    Returns:
        {"mining": , "area": }.
    """
    seen = scene.need("a second forward")
    classes = seen.classes
    rows = torch.ones_like(classes, dtype=torch.bool)
    if only is not None:
        rows = torch.isin(classes, torch.tensor(list(only), device=classes.device))
    if not bool(rows.any()):
        return {"mining": scene.maps.sum() * 0, "area": scene.maps.sum() * 0}
    size = size_of(seen.images)
    masks = soft_mask(scene.maps[rows], size, steepness=steepness, threshold=threshold)
    logits = erased_logits(seen, masks, rows, fill=fill, generator=generator)
    weights = scene.grid.weights[rows]
    left = remaining(logits, classes[rows], score) * weights
    parts = {"mining": alpha * left.mean()}
    if area:
        parts["area"] = area * (masks.mean((-2, -1)) * weights).mean()
    return parts
