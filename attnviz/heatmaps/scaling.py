"""From raw values to [0, 1] or [-1, 1], without stretching the noise of a flat map."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from ..errors import DataError, did_you_mean

Mode = Literal["minmax", "max", "signed", "none"]

#: a map is flat when its range is at most ABSOLUTE, or at most RELATIVE of its largest magnitude
ABSOLUTE, RELATIVE = 1e-12, 1e-4

#: what a picture says of each mode
DESCRIPTIONS = {
    "minmax": "lowest to highest value",
    "max": "0 to highest value, negatives cut",
    "signed": "zero at the centre, same scale both ways",
    "none": "values as they are",
}


def check_mode(mode: str) -> None:
    """Raise DataError for a mode that does not exist."""
    if mode not in get_args(Mode):
        raise DataError(
            f"normalisation {mode!r} is not known{did_you_mean(mode, get_args(Mode))} "
            f"Known: {', '.join(get_args(Mode))}"
        )


def extremes(values: Tensor, *, shared: bool = False) -> tuple[Tensor, Tensor]:
    """Return the lowest and highest value of each map (B, h, w), each (B,); NaN is left out.

    With `shared` every map gets the lowest and highest of all.
    """
    flat = values.detach().flatten(1)
    empty = torch.isnan(flat)
    low = flat.masked_fill(empty, float("inf")).amin(1)
    high = flat.masked_fill(empty, float("-inf")).amax(1)
    if shared and len(values):
        low, high = low.min().expand_as(low), high.max().expand_as(high)
    return low, high


def is_flat(low: Tensor, high: Tensor, *, floor: float = ABSOLUTE) -> Tensor:
    """Return where a range holds no more than numerical noise, (B,) bool."""
    return (high - low) <= torch.clamp(torch.maximum(low.abs(), high.abs()) * RELATIVE, min=floor)


def limits(
    values: Tensor, mode: str, *, shared: bool = False, floor: float = ABSOLUTE
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the values that become the ends of the scale, and where the map is flat, each (B,).

    The ends are those of [0, 1] for "minmax" and "max" and of [-1, 1] for "signed".
    """
    check_mode(mode)
    low, high = extremes(values, shared=shared)
    flat = is_flat(low, high, floor=floor)
    if mode == "none":
        return torch.zeros_like(low), torch.ones_like(high), flat & False
    if mode == "max":
        return torch.zeros_like(low), high, flat | (high <= floor)
    if mode == "signed":
        high = torch.maximum(low.abs(), high.abs())
        return -high, high, flat | (high <= floor)
    return low, high, flat


def normalise(
    values: Tensor, mode: str = "minmax", *, shared: bool = False, floor: float = ABSOLUTE
) -> Tensor:
    """Return maps (B, h, w) scaled to [0, 1], or to [-1, 1] for "signed"; a flat map is all 0.

    * "minmax": lowest value to 0, highest to 1.
    * "max": 0 stays 0, negative values become 0, the highest becomes 1.
    * "signed": 0 stays 0, the largest magnitude becomes 1 or -1.
    * "none": unchanged.

    Args:
        values: raw maps (B, h, w). NaN stays NaN.
        mode: see above.
        shared: one scale for all maps; else one a map.
        floor: a range (or for "max" and "signed" a magnitude) at or below this is flat; so is a
            range of at most 1e-4 of the largest magnitude.
    """
    low, high, flat = limits(values, mode, shared=shared, floor=floor)
    if mode == "none":
        return values
    low, high, flat = (t[:, None, None] for t in (low, high, flat))
    span = torch.where(flat, torch.ones_like(high), high if mode == "signed" else high - low)
    out = values / span if mode == "signed" else (values - low) / span
    if mode == "max":
        out = out.clamp(min=0.0)
    return torch.where(flat & ~torch.isnan(values), torch.zeros_like(out), out)
