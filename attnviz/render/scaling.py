"""From raw values to [0, 1] or [-1, 1], without stretching the noise of a flat map."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from ..errors import DataError, did_you_mean

Mode = Literal["minmax", "max", "signed", "none"]

#: a map is flat when its range is at most ABSOLUTE, or at most RELATIVE of its largest magnitude
ABSOLUTE, RELATIVE = 1e-12, 1e-4

#: a map that varies by less than this share of its largest value is not stretched to full colour
NEARLY_FLAT = 0.25

#: what a picture says of each mode
DESCRIPTIONS = {
    "minmax": "lowest to highest value",
    "max": "0 to highest value, negatives cut",
    "signed": "zero at the centre, same scale both ways",
    "none": "values as they are",
}


def check_mode(mode: str) -> None:
    """Raise DataError for a mode that does not exist."""
    if mode not in get_args(Mode) and percentiles(mode) is None:
        raise DataError(
            f"normalisation {mode!r} is not known{did_you_mean(mode, get_args(Mode)) or '.'} "
            f"Known: {', '.join(get_args(Mode))}, percentile:LOW,HIGH"
        )


def percentiles(mode: str) -> tuple[float, float] | None:
    """Return the two numbers of "percentile:1,99", None for another mode.

    Raises:
        DataError: they are not two numbers from 0 to 100, the first the smaller.
    """
    if not mode.startswith("percentile"):
        return None
    number = r"(\d+(?:\.\d+)?)"
    found = re.fullmatch(rf"percentile:{number},{number}", mode)
    low, high = map(float, found.groups()) if found else (0.0, 0.0)
    if not low < high <= 100.0:
        raise DataError(
            f"scale {mode!r}: expected percentile:LOW,HIGH with 0 <= LOW < HIGH <= 100, such as "
            "percentile:1,99"
        )
    return low, high


def extremes(
    values: Tensor, *, shared: bool = False, between: tuple[float, float] = (0.0, 100.0)
) -> tuple[Tensor, Tensor]:
    """Return the lowest and highest value of each map (B, h, w), each (B,); NaN is left out.

    With `shared` every map gets the lowest and highest of all. `between` are two percentiles to
    take instead.
    """
    flat = values.flatten(1)
    if between != (0.0, 100.0) and flat.numel():
        rows = flat.flatten()[None] if shared else flat
        shares = torch.tensor(between, dtype=flat.dtype, device=flat.device) / 100.0
        low, high = torch.nanquantile(rows, shares, dim=1)
        return low.expand(len(flat)), high.expand(len(flat))
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
    if (between := percentiles(mode)) is not None:
        cut = extremes(values, shared=shared, between=between)
        wide = ~is_flat(*cut, floor=floor)  # else nearly all of the map has one value
        low, high = (torch.where(wide, c, end) for c, end in zip(cut, (low, high), strict=True))
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

    Differentiable, through the ends of the scale too.

    * "minmax": lowest value to 0, highest to 1.
    * "max": 0 stays 0, negative values become 0, the highest becomes 1.
    * "signed": 0 stays 0, the largest magnitude becomes 1 or -1.
    * "percentile:1,99": that percentile of the map to 0 and this to 1, cut beyond.
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
    low, high, flat = (t.view(-1, *[1] * (values.ndim - 1)) for t in (low, high, flat))
    span = torch.where(flat, torch.ones_like(high), high if mode == "signed" else high - low)
    out = values / span if mode == "signed" else (values - low) / span
    if mode == "max":
        out = out.clamp(min=0.0)
    if percentiles(mode) is not None:
        out = out.clamp(0.0, 1.0)
    return torch.where(flat & ~torch.isnan(values), torch.zeros_like(out), out)


@dataclass(frozen=True)
class Scale:
    """The raw values that become the ends of a colour bar, shared by the maps it is for.

    Attributes:
        low: value at the low end.
        high: value at the high end.
        mode: how the ends were chosen; see `normalise`.
        flat: there is nothing to show: the maps hold no more than numerical noise.
        nearly: the maps vary by less than a quarter of their value; the scale spans that quarter,
            so that they look as nearly flat as they are.
        between: the percentiles of the values at the ends, if not the lowest and highest.
    """

    low: float
    high: float
    mode: str
    flat: bool
    nearly: bool = False
    between: tuple[float, float] | None = None

    @classmethod
    def of(cls, maps: Sequence[np.ndarray | Tensor], mode: str | None = None) -> Scale:
        """Return the one scale of some raw maps (h, w), of whatever sizes.

        Args:
            maps: the maps that are to be compared; NaN is left out.
            mode: see `normalise`; None: "signed" if any value is clearly negative, else "minmax".
                Percentiles of maps with negative values keep zero at the centre.

        Raises:
            DataError: unknown mode, no maps, or an infinite value or nothing but NaN.
        """
        if not maps:
            raise DataError("no maps to scale")
        arrays = [m.detach().cpu().numpy() if isinstance(m, Tensor) else m for m in maps]
        low = float(np.fmin.reduce([np.fmin.reduce(a, axis=None) for a in arrays]))
        high = float(np.fmax.reduce([np.fmax.reduce(a, axis=None) for a in arrays]))
        if not (math.isfinite(low) and math.isfinite(high)):
            raise DataError("a map holds infinite values, or nothing but NaN; it cannot be drawn")
        between = percentiles(mode) if mode is not None else None
        if between is not None:
            together = np.concatenate([np.asarray(a, np.float64).ravel() for a in arrays])
            ends, (low, high) = (low, high), (float(v) for v in np.nanpercentile(together, between))
            if high - low <= max(ABSOLUTE, RELATIVE * max(abs(low), abs(high))):
                return cls._ends(*ends, None)  # nearly all of the maps has one value
            kind = "signed" if low < -RELATIVE * max(abs(low), abs(high)) else "minmax"
            return replace(cls._ends(low, high, kind), between=between)
        return cls._ends(low, high, mode)

    @classmethod
    def _ends(cls, low: float, high: float, mode: str | None) -> Scale:
        reach = max(abs(low), abs(high))
        mode = mode or ("signed" if low < -RELATIVE * reach else "minmax")
        check_mode(mode)
        flat = high - low <= max(ABSOLUTE, RELATIVE * reach)
        # the same ends as `limits` gives, in plain numbers: this runs once a picture
        if mode == "minmax" and not flat and high - low < NEARLY_FLAT * reach:
            return cls(low, low + NEARLY_FLAT * reach, mode, False, nearly=True)
        if mode == "none":
            return cls(0.0, 1.0, mode, False)
        if mode == "max":
            return cls(0.0, high, mode, flat or high <= ABSOLUTE)
        if mode == "signed":
            return cls(-reach, reach, mode, flat or reach <= ABSOLUTE)
        return cls(low, high, mode, flat)

    @property
    def signed(self) -> bool:
        """Whether zero is the centre."""
        return self.mode == "signed"

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Return a raw map in [0, 1] for drawing (zero at 0.5 if signed), float32.

        A map that is flat by itself or beside the scale's range is NaN: drawn as nothing.
        """
        values = np.asarray(values, np.float32)
        if self.flat or self.is_flat(values):
            return np.full_like(values, np.nan)
        return np.clip((values - self.low) / np.float32(self.high - self.low), 0.0, 1.0)

    def is_flat(self, values: np.ndarray) -> bool:
        """Return whether a map has no more variation than noise, seen on this scale."""
        if self.mode == "none":
            return False
        low, high = (float(end.reduce(values, axis=None)) for end in (np.fmin, np.fmax))
        reach = max(abs(low), abs(high), self.high - self.low)
        return self.flat or high - low <= max(ABSOLUTE, RELATIVE * reach)

    def describe(self) -> str:
        """Return how the ends were chosen, in words."""
        if self.nearly:
            return "nearly flat: lowest value and a quarter of the highest above it"
        if self.between is not None:
            cut = "{:g} and {:g} %".format(*self.between)
            return f"cut at {cut}" + (", zero at the centre" if self.signed else "")
        return DESCRIPTIONS[self.mode]
