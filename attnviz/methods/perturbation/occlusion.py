"""Occlusion."""

from __future__ import annotations

import math
from itertools import product

import torch
from torch import Tensor

from ...errors import MethodError
from ..altered import AlteredGroup, replacement
from ._register import register_perturbation


@register_perturbation("occlusion", paper="arXiv:1311.2901", units="score", any_rank=True)
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
    the picture speaks for the score. At the right and lower edge squares stand flush. In signals
    and volumes they are stretches and cubes.

    Args:
        group: the images.
        layer: not used.
        window: side of the square in pixels; None is an eighth of the shorter side.
        stride: pixels between squares; None is half a window.
        baseline: what covers: "zero", "mean", "blur", "noise" or a tensor.

    Returns:
        (K, g, H, W).
    """
    sizes = tuple(group.inputs.shape[2:])
    side = min(sizes)
    window = max(1, round(side / 8)) if window is None else window
    stride = max(1, window // 2) if stride is None else stride
    if not 1 <= window <= side or not 1 <= stride <= window:
        raise MethodError(
            f"window={window} lies in 1 to {side} pixels, stride={stride} in 1 to "
            "the window, so that every pixel is covered"
        )
    corners = product(*(_starts(size, window, stride) for size in sizes))
    squares = [(..., *(slice(at, at + window) for at in corner)) for corner in corners]
    behind = group.of(replacement(baseline, group.passes.inputs))

    def build(start: int, stop: int) -> Tensor:
        copies = group.inputs.expand(stop - start, *group.inputs.shape).clone()
        for copy, square in zip(copies, squares[start:stop], strict=True):
            copy[square] = behind[square]
        return copies

    maps = group.scores.new_zeros(*group.scores.shape, *sizes)
    times = maps.new_zeros(sizes)
    across = (..., *[None] * len(sizes))
    for start, stop, scores in group.each(len(squares), build, "occlusion"):
        drops = group.scores[:, None] - scores
        for number, square in enumerate(squares[start:stop]):
            maps[square] += drops[:, number][across]
            times[square] += 1
    return _single(maps) / times


def _single(maps: Tensor) -> Tensor:
    return maps if maps.dtype == torch.float64 else maps.float()


def _starts(size: int, window: int, stride: int) -> list[int]:
    count = math.ceil((size - window) / stride) + 1
    return [min(i * stride, size - window) for i in range(count)]
