"""How alike two maps are: rank correlation, correlation, structural similarity."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import MetricError
from ..geometry import size_of
from ..statistics.correlation import pearson, spearman
from ._inputs import as_maps, resize_maps, stretched

SIMILARITIES = ("spearman", "pearson", "ssim")


def similarity(a: Any, b: Any, kind: str = "spearman") -> Tensor:
    """Return how alike the maps of two sets are, (B,), at most 1; NaN where it is not defined.

    Args:
        a: (B, h, w).
        b: (B, h', w'); the smaller of the two is resized to the larger.
        kind: "spearman" (rank correlation, ties averaged), "pearson", or "ssim" (structural
            similarity of the maps stretched to [0, 1], Wang et al. 2004: Gaussian window of
            deviation 1.5, 11 wide or as wide as the map).

    A correlation with a constant map is not defined; the SSIM of two constant maps is 1.
    """
    if kind not in SIMILARITIES:
        raise MetricError(f"similarity={kind!r}, expected one of {', '.join(SIMILARITIES)}")
    a, b = as_maps(a), as_maps(b)
    if len(a) != len(b):
        raise MetricError(f"{len(a)} maps compared with {len(b)}; expected as many")
    size = max(size_of(a), size_of(b), key=lambda s: s[0] * s[1])
    a, b = resize_maps(a, size), resize_maps(b.to(a), size)
    if kind == "ssim":
        return ssim(a, b)
    measure = spearman if kind == "spearman" else pearson
    found = [measure(p[None], q[None])[0] for p, q in zip(a.flatten(1), b.flatten(1), strict=True)]
    return torch.stack(found)


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Return the mean structural similarity of maps (B, h, w) stretched to [0, 1], (B,).

    Wang, Bovik, Sheikh & Simoncelli (IEEE TIP 2004), K1 = .01, K2 = .03, over the windows that lie
    wholly inside the map.
    """
    a, b = stretched(a)[:, None], stretched(b)[:, None]
    radius = min(5, (min(a.shape[-2:]) - 1) // 2)
    at = torch.arange(-radius, radius + 1, device=a.device, dtype=a.dtype)
    weights = torch.exp(-(at**2) / (2 * 1.5**2))
    weights = weights / weights.sum()

    def mean(values: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(values, weights.view(1, 1, 1, -1)), weights.view(1, 1, -1, 1))

    mean_a, mean_b = mean(a), mean(b)
    var_a, var_b = mean(a * a) - mean_a**2, mean(b * b) - mean_b**2
    both = mean(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    index = (2 * mean_a * mean_b + c1) * (2 * both + c2)
    index = index / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    return torch.stack([row.mean() for row in index])
