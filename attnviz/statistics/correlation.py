"""Agreement of two sets of numbers, row by row."""

from __future__ import annotations

import torch
from torch import Tensor


def pearson(a: Tensor, b: Tensor) -> Tensor:
    """Return the correlation of each row of a and b (B, n) -> (B,); NaN where one is constant."""
    a = a - a.mean(1, keepdim=True)
    b = b - b.mean(1, keepdim=True)
    # scaled to 1 first: squares of tiny numbers underflow
    a = a / a.abs().amax(1, keepdim=True)
    b = b / b.abs().amax(1, keepdim=True)
    return ((a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))).clamp(-1, 1)


def average_ranks(values: Tensor) -> Tensor:
    """Return ascending ranks 1 to n of each row (B, n), float64; equal values share their mean."""
    found = torch.empty(values.shape, dtype=torch.float64, device=values.device)
    for into, row in zip(found, values, strict=True):
        ordered, order = row.sort()
        _, group, count = ordered.unique_consecutive(return_inverse=True, return_counts=True)
        last = count.cumsum(0).double()
        into[order] = (last - (count.double() - 1) / 2)[group]
    return found


def spearman(a: Tensor, b: Tensor) -> Tensor:
    """Return the rank correlation of each row of a and b (B, n) -> (B,), ties averaged."""
    return pearson(average_ranks(a), average_ranks(b))
