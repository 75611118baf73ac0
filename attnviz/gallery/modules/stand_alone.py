"""Stand-alone self-attention: a convolution whose weights are computed from what is there.

Equation (Ramachandran, Parmar, Vaswani, Bello, Levskaya, Shlens 2019, arXiv:1906.05909)::

    y_ij = sum_{ab in N_k(i,j)} softmax_ab( q_ij . k_ab + q_ij . r_{a-i, b-j} ) v_ab

N_k is the k x k neighbourhood; r is half a row embedding and half a column embedding of the offset.
Differs from common implementations in what lies outside the image: it is left out of the softmax
(they pad with zeros, so that attention is spent on nothing).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LocalAttended(NamedTuple):
    """Output and weights of local self-attention."""

    output: Tensor
    """(B, C_out, H, W)."""
    attention: Tensor
    """(B, heads, H, W, k, k): weight of each neighbour, summing to 1 over the last two axes."""


class StandAloneSelfAttention(nn.Module):
    """Local self-attention over k x k neighbourhoods.

    Args:
        channels: input channels.
        out: output channels, a multiple of 2 * heads.
        window: k, odd.
        heads: how many sets of weights.
    """

    def __init__(self, channels: int, out: int, *, window: int = 7, heads: int = 4) -> None:
        super().__init__()
        if window % 2 == 0 or out % (2 * heads):
            raise ValueError(
                f"window must be odd and out a multiple of 2 * heads; "
                f"got window={window}, out={out}, heads={heads}"
            )
        self.window, self.heads = window, heads
        self.query = nn.Conv2d(channels, out, 1, bias=False)
        self.key = nn.Conv2d(channels, out, 1, bias=False)
        self.value = nn.Conv2d(channels, out, 1, bias=False)
        half = out // heads // 2
        self.row = nn.Parameter(torch.randn(heads, half, window) * half**-0.5)
        self.column = nn.Parameter(torch.randn(heads, half, window) * half**-0.5)

    def neighbours(self, maps: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, heads, H W, k k, C / heads)."""
        batch, _, height, width = maps.shape
        flat = F.unfold(maps, self.window, padding=self.window // 2)
        flat = flat.view(batch, self.heads, -1, self.window**2, height * width)
        return flat.permute(0, 1, 4, 3, 2)

    def forward(self, maps: Tensor) -> LocalAttended:
        """(B, channels, H, W) -> LocalAttended."""
        batch, _, height, width = maps.shape
        k = self.window
        query = self.query(maps).view(batch, self.heads, -1, height * width).transpose(2, 3)
        rows = self.row[:, :, :, None].expand(-1, -1, -1, k)
        columns = self.column[:, :, None, :].expand(-1, -1, k, -1)
        offset = torch.cat((rows, columns), 1).flatten(2)  # (heads, d, k k)
        content = (self.neighbours(self.key(maps)) @ query[..., None]).squeeze(-1)
        score = content + query @ offset
        ones = F.unfold(maps.new_ones(1, 1, height, width), k, padding=k // 2)
        score = score.masked_fill(ones.transpose(1, 2)[:, None] == 0, -torch.inf)
        weights = score.softmax(-1)
        mixed = (weights[..., None, :] @ self.neighbours(self.value(maps))).squeeze(-2)
        output = mixed.transpose(2, 3).reshape(batch, -1, height, width)
        return LocalAttended(output, weights.view(batch, self.heads, height, width, k, k))
