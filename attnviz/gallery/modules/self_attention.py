"""Self-attention with softmax or ReLU scores, and a small image transformer made of it.

Equations (Vaswani and others 2017, arXiv:1706.03762; ReLU: Wortsman, Lee, Gilmer, Kornblith 2023,
arXiv:2309.08586)::

    softmax:  A_ij = exp(s_ij) / sum_j exp(s_ij)
    relu:     A_ij = relu(s_ij) / N                 s_ij = q_i . k_j / sqrt(d)
    o_i = sum_j A_ij v_j

Softmax rows sum to 1, so each token has to look somewhere. ReLU rows need not: a token may attend
to nothing, and weights are exactly zero instead of small.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Keep = Callable[[Tensor], Tensor] | None


class SelfAttended(NamedTuple):
    """Output and weights of self-attention."""

    output: Tensor
    """(B, N, C)."""
    attention: Tensor
    """(B, heads, N, N): row i is what token i attends to."""


class TransformerOutput(NamedTuple):
    """What the small image transformer returns."""

    logits: Tensor
    """(B, classes)."""
    attention: Tensor
    """(B, layers, heads, N, N): token 0 is the class token, then the patches row by row."""


class SelfAttention(nn.Module):
    """Multi-head self-attention written out.

    Args:
        dim: C.
        heads: number of heads.
        scores: "softmax" or "relu".
    """

    def __init__(self, dim: int, *, heads: int = 4, scores: str = "softmax") -> None:
        super().__init__()
        if scores not in ("softmax", "relu"):
            raise ValueError(f"scores must be 'softmax' or 'relu', got {scores!r}")
        self.heads, self.scores = heads, scores
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        if scores == "relu":
            # torch's first scores have a deviation of 1/3, so that a row of relu(s) / N would sum
            # to 0.13; 7.5 times as much lets rows begin at a sum of 1, as softmax's do
            with torch.no_grad():
                self.qkv.weight[: 2 * dim] *= 7.5**0.5

    def forward(self, tokens: Tensor, *, keep: Keep = None) -> SelfAttended:
        """(B, N, C) -> SelfAttended.

        Args:
            tokens: (B, N, C).
            keep: pruning: given the weights (B, heads, N, N), says which of them stay (boolean,
                same shape); the others become 0 and nothing is renormalised. The attention
                returned is the one before pruning.
        """
        batch, count, dim = tokens.shape
        q, k, v = self.qkv(tokens).view(batch, count, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        score = q @ k.transpose(-2, -1) * (dim // self.heads) ** -0.5
        weights = score.softmax(-1) if self.scores == "softmax" else F.relu(score) / count
        kept = weights if keep is None else weights * keep(weights)
        return SelfAttended(self.out((kept @ v).transpose(1, 2).flatten(2)), weights)


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, dim: int, *, heads: int, scores: str) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = SelfAttention(dim, heads=heads, scores=scores)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, tokens: Tensor, *, keep: Keep = None) -> SelfAttended:
        """(B, N, C) -> SelfAttended."""
        seen = self.attention(self.norm1(tokens), keep=keep)
        tokens = tokens + seen.output
        return SelfAttended(tokens + self.mlp(self.norm2(tokens)), seen.attention)


class ImageTransformer(nn.Module):
    """Small vision transformer with a class token, for grey images.

    Args:
        side: image side in pixels.
        patch: patch side in pixels.
        classes: number of classes.
        dim: token size.
        depth: layers.
        heads: heads per layer.
        scores: "softmax" or "relu".
    """

    def __init__(
        self,
        *,
        side: int = 32,
        patch: int = 4,
        classes: int = 10,
        dim: int = 48,
        depth: int = 4,
        heads: int = 4,
        scores: str = "softmax",
    ) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, dim, patch, stride=patch)
        self.grid = (side // patch, side // patch)
        self.cls = nn.Parameter(torch.randn(1, 1, dim) * 0.02)
        self.position = nn.Parameter(torch.randn(1, 1 + self.grid[0] ** 2, dim) * 0.02)
        self.blocks = nn.ModuleList(Block(dim, heads=heads, scores=scores) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, classes)

    def forward(self, image: Tensor, *, keep: Sequence[Keep] | None = None) -> TransformerOutput:
        """(B, 1, side, side) -> TransformerOutput; `keep` prunes, one rule a layer."""
        tokens = self.patch(image).flatten(2).transpose(1, 2)
        tokens = torch.cat((self.cls.expand(len(tokens), -1, -1), tokens), 1) + self.position
        seen = []
        for index, block in enumerate(self.blocks):
            tokens, weights = block(tokens, keep=None if keep is None else keep[index])
            seen.append(weights)
        return TransformerOutput(self.head(self.norm(tokens[:, 0])), torch.stack(seen, 1))
