"""Bring maps to a common scale without letting the scale be a way to cheat."""

from __future__ import annotations

import torch
from torch import Tensor

#: no map is divided by less: below it a map is noise, and its gradient would explode
FLOOR = 1e-3


def map_scale(maps: Tensor, *, floor: float = FLOOR) -> Tensor:
    """Return each map's largest absolute value, (B, 1, 1), at least `floor`, without graph.

    It is a constant to the gradient: through a live maximum the loss could be lowered by raising
    one pixel, and min-max scaling by 1e-16 gives gradients of 1e12.
    """
    return maps.detach().abs().amax((-2, -1), keepdim=True).clamp_min(floor)


def normalised(maps: Tensor, *, scale: Tensor | None = None, floor: float = FLOOR) -> Tensor:
    """Return maps divided by their own detached scale: (B, h, w) in [-1, 1].

    Args:
        maps: (B, h, w).
        scale: (B, 1, 1) to use instead, such as the scale of another image of the same object.
        floor: smallest scale.
    """
    return maps / (map_scale(maps, floor=floor) if scale is None else scale)


def positive_part(
    maps: Tensor, form: str, *, scale: Tensor | None = None, beta: float = 10.0
) -> Tensor:
    """Return evidence (B, h, w) >= 0 of signed maps.

    Args:
        maps: (B, h, w), signed.
        form: "relu" counts what speaks for the class (no gradient where the map is negative);
            "abs" counts evidence of either sign, so a map cannot hide by turning negative;
            "softplus" is a ReLU that never dies: softplus(beta A / scale) / beta.
        scale: see `normalised`; for softplus only, the other forms are free of scale.
        beta: sharpness of the softplus.
    """
    if form == "relu":
        return maps.relu()
    if form == "abs":
        return maps.abs()
    if form == "softplus":
        return torch.nn.functional.softplus(beta * normalised(maps, scale=scale)) / beta
    raise ValueError(f"form {form!r} is not one of 'relu', 'abs', 'softplus'")
