"""Occlusion."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ...errors import MethodError
from ..altered import AlteredGroup, replacement
from ._register import register_perturbation


@register_perturbation("occlusion", paper="arXiv:1311.2901", units="score")
def occlusion(
    group: AlteredGroup,
    layer: None,
    *,
    window: int | None = None,
    stride: int | None = None,
    baseline: str | Tensor = "zero",
) -> Tensor:
    """Occlusion: what the score loses where a square is covered (Zeiler & Fergus 2014).

    Each pixel gets the mean of S(x) - S(x covered) over the squares that cover it: positive where
    the picture speaks for the score. At the right and lower edge squares stand flush.

    Args:
        group: the images.
        layer: not used.
        window: side of the square in pixels; None is an eighth of the shorter side.
        stride: pixels between squares; None is half a window.
        baseline: what covers: "zero", "mean", "blur", "noise" or a tensor.

    Returns:
        (K, g, H, W).
    """
    height, width = group.inputs.shape[-2:]
    window = max(1, round(min(height, width) / 8)) if window is None else window
    stride = max(1, window // 2) if stride is None else stride
    if not 1 <= window <= min(height, width) or not 1 <= stride <= window:
        raise MethodError(
            f"window={window} lies in 1 to {min(height, width)} pixels, stride={stride} in 1 to "
            "the window, so that every pixel is covered"
        )
    places = [(top, left) for top in _starts(height, window, stride)
              for left in _starts(width, window, stride)]  # fmt: skip
    behind = group.of(replacement(baseline, group.passes.inputs))

    def build(start: int, stop: int) -> Tensor:
        copies = group.inputs.expand(stop - start, *group.inputs.shape).clone()
        for copy, (top, left) in zip(copies, places[start:stop], strict=True):
            square = (..., slice(top, top + window), slice(left, left + window))
            copy[square] = behind[square]
        return copies

    maps = group.scores.new_zeros(*group.scores.shape, height, width)
    times = maps.new_zeros(height, width)
    for start, stop, scores in group.each(len(places), build, "occlusion"):
        drops = group.scores[:, None] - scores
        for number, (top, left) in enumerate(places[start:stop]):
            square = (..., slice(top, top + window), slice(left, left + window))
            maps[square] += drops[:, number, :, None, None]
            times[square] += 1
    return _single(maps) / times


def _single(maps: Tensor) -> Tensor:
    return maps if maps.dtype == torch.float64 else maps.float()


def _starts(size: int, window: int, stride: int) -> list[int]:
    count = math.ceil((size - window) / stride) + 1
    return [min(i * stride, size - window) for i in range(count)]
