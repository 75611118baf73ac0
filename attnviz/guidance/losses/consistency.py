"""Cross-layer consistency: an earlier layer looks where the last one looks."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ...errors import GuidanceError
from ...geometry import size_of
from ..normalising import normalised, positive_part
from ._base import LossInput, register_loss


@register_loss("consistency", paper="arXiv:1811.07484", needs=("layers",), annotated=False)
def consistency(scene: LossInput, *, form: str = "relu", anchor: bool = False) -> dict[str, Tensor]:
    """Cross-layer consistency: squared distance of normalised maps (after Wang et al. 2019).

    All maps are averaged onto the smallest grid and compared with the first layer's. Takes every
    image. Differs from the paper, which compares thresholded overlaps of two fixed stages.

    Args:
        scene: made by `class_map(..., layer=[deep, shallow, ...])`.
        form: "relu", "abs" or "softplus", see `positive_part`.
        anchor: the first layer's map is a constant to follow.

    Returns:
        {layer: in [0, 1]} for every layer but the first.
    """
    seen = scene.need("maps of several layers")
    if len(seen.by_layer) < 2:
        raise GuidanceError(
            f"consistency compares layers, and only {seen.layer!r} was read; pass "
            "class_map(..., layer=[deep, shallow])"
        )
    size = min((size_of(m) for m in seen.by_layer.values()), key=lambda s: s[0] * s[1])
    maps = {
        name: positive_part(normalised(F.adaptive_avg_pool2d(values, size)), form)
        for name, values in seen.by_layer.items()
    }
    first = maps.pop(seen.layer)
    if anchor:
        first = first.detach()
    weights: Tensor = scene.grid.weights
    return {
        name: ((values - first).square().mean((-2, -1)) * weights).mean()
        for name, values in maps.items()
    }
