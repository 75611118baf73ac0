"""Criss-cross attention: each pixel attends to its own row and column, twice.

Equation (Huang and others 2019, CCNet, arXiv:1811.11721)::

    d_iu = q_u . k_iu,   A_u = softmax_i(d_iu),   i over the H + W - 1 pixels of u's row and column
    H'_u = gamma sum_i A_iu v_iu + H_u

One pass reaches the cross; the same module applied again (R = 2) reaches every pixel, at
O(HW (H + W)) instead of O((HW)^2). The pixel itself is counted once, in its row.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


class CrissCrossed(NamedTuple):
    """Output and weights of criss-cross attention."""

    output: Tensor
    """(B, C, H, W)."""
    attention: Tensor
    """(B, R, H, W, H + W): per pass and pixel, H weights along its column, then W along its row."""


class CrissCrossAttention(nn.Module):
    """Criss-cross attention, applied `passes` times with shared weights.

    Args:
        channels: input and output channels.
        hidden: channels of query and key.
        passes: R.
    """

    def __init__(self, channels: int, *, hidden: int | None = None, passes: int = 2) -> None:
        super().__init__()
        hidden = hidden or max(channels // 8, 1)
        self.query = nn.Conv2d(channels, hidden, 1)
        self.key = nn.Conv2d(channels, hidden, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))
        self.passes = passes

    def cross(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """One pass: the gathered values (B, C, H, W) and weights (B, H, W, H + W)."""
        height = maps.shape[2]
        query, key, value = self.query(maps), self.key(maps), self.value(maps)
        # (B, W, H, d) @ (B, W, d, H): every column by itself; likewise every row
        column = query.permute(0, 3, 2, 1) @ key.permute(0, 3, 1, 2)
        row = query.permute(0, 2, 3, 1) @ key.permute(0, 2, 1, 3)
        itself = torch.eye(height, dtype=torch.bool, device=maps.device)
        column = column.masked_fill(itself, -torch.inf)
        weights = torch.cat((column.transpose(1, 2), row), -1).softmax(-1)
        down, along = weights[..., :height], weights[..., height:]
        gathered = (down.transpose(1, 2) @ value.permute(0, 3, 2, 1)).permute(0, 3, 2, 1)
        gathered = gathered + (along @ value.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return gathered, weights

    @staticmethod
    def own_attention(inputs: tuple[Tensor], output: CrissCrossed) -> tuple[Tensor, str, str, str]:
        """What `attnviz.inspect` says of it: weights, kind, mechanism, what attends to what."""
        passes, height, width = output.attention.shape[1:4]
        attends = f"{height} x {width} pixels attend their row and column, {passes} times"
        return output.attention, "self", "criss-cross attention", attends

    def forward(self, maps: Tensor) -> CrissCrossed:
        """(B, C, H, W) -> CrissCrossed."""
        seen = []
        for _ in range(self.passes):
            gathered, weights = self.cross(maps)
            maps = self.gamma * gathered + maps
            seen.append(weights)
        return CrissCrossed(maps, torch.stack(seen, 1))


def dense_attention(weights: Tensor) -> Tensor:
    """Write one pass's weights (B, H, W, H + W) as a full (B, H W, H W), zero off the cross.

    Two passes reach a pixel with `second @ first` (the residual path left out).
    """
    batch, height, width, _ = weights.shape
    dense = weights.new_zeros(batch, height, width, height, width)
    i, j = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    for a in range(height):
        dense[:, i, j, a, j] += weights[..., a]
    for b in range(width):
        dense[:, i, j, i, b] += weights[..., height + b]
    return dense.view(batch, height * width, height * width)
