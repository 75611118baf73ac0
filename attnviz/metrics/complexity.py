"""How concentrated a map is: Gini index, entropy, effective size. No quality by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ._inputs import as_maps, finite_reasons
from ._localise import skip
from ._register import register_metric
from .protocol import Protocol
from .scores import Scores


def _complexity(
    name: str, maps: Any, measure: Callable[[Tensor], Tensor], better: bool | None
) -> Scores:
    values = as_maps(maps)
    reasons = finite_reasons(values)
    found = values.new_full((len(values),), float("nan"), dtype=torch.float64)
    for number, row in enumerate(values):
        size = row.double().abs().flatten()
        if reasons[number] is None and not bool((size > 0).any()):
            reasons[number] = "empty map"
        if reasons[number] is None:
            found[number] = measure(size / size.max())
    return Scores(skip(found, reasons), Protocol.of(name, higher_is_better=better), tuple(reasons))


def _shares(size: Tensor) -> Tensor:
    shares = size / size.sum()
    return shares[shares > 0]


@register_metric(
    "gini",
    family="complexity",
    higher_is_better=None,
    paper="arXiv:1810.06583",
)
def gini(maps: Any) -> Scores:
    """Gini index of the absolute values: 0 for a constant map, 1 - 1/n for a single pixel.

    Chalasani, Chen, Chowdhury, Jha & Wu (ICML 2020, arXiv:1810.06583). Taken at the map's own
    resolution.

    Args:
        maps: (B, h, w).

    Returns:
        `Scores` in [0, 1). Skipped: all-zero maps, maps with NaN.
    """

    def measure(size: Tensor) -> Tensor:
        ordered = size.sort().values
        n = len(ordered)
        weight = torch.arange(1, n + 1, device=size.device, dtype=size.dtype)
        return ((2 * weight - n - 1) * ordered).sum() / (n * ordered.sum())

    return _complexity("gini", maps, measure, None)


@register_metric(
    "entropy",
    family="complexity",
    higher_is_better=None,
    paper="arXiv:2005.00631",
)
def entropy(maps: Any) -> Scores:
    """Entropy of the absolute values as shares, in nats: 0 for a single pixel, log n if constant.

    Bhatt, Weller & Moura (IJCAI 2020, arXiv:2005.00631).

    Args:
        maps: (B, h, w).

    Returns:
        `Scores`. Skipped: all-zero maps, maps with NaN.
    """

    def measure(size: Tensor) -> Tensor:
        shares = _shares(size)
        return -(shares * shares.log()).sum()

    return _complexity("entropy", maps, measure, None)


@register_metric("effective_size", family="complexity", higher_is_better=None)
def effective_size(maps: Any) -> Scores:
    """Effective size: how many cells share the map's mass, exp(entropy) over n; 1/n to 1.

    Args:
        maps: (B, h, w).

    Returns:
        `Scores`. Skipped: all-zero maps, maps with NaN.
    """

    def measure(size: Tensor) -> Tensor:
        shares = _shares(size)
        return (-(shares * shares.log()).sum()).exp() / len(size)

    return _complexity("effective_size", maps, measure, None)
