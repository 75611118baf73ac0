"""Temporal attention: which frames, or time steps, the answer is taken from.

Equation (Yao, Torabi, Cho, Ballas, Pal, Larochelle, Courville 2015, arXiv:1502.08029)::

    e_i = w . tanh(W h + U v_i + b),   alpha_i = softmax_i(e_i),   phi(V) = sum_i alpha_i v_i

v_i are the frames' vectors; h is the query (the state of a caption's writer there), left out where
nothing is asked.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


class Pooled(NamedTuple):
    """A sequence pooled over time."""

    output: Tensor
    """(B, D)."""
    attention: Tensor
    """(B, T): weight of each frame, summing to 1."""


class ClipOutput(NamedTuple):
    """What the clip classifier returns."""

    logits: Tensor
    attention: Tensor


class TemporalAttention(nn.Module):
    """Attend over time.

    Args:
        dim: size of a frame's vector.
        query: size of the query; None for none.
        hidden: size of the joint space.
    """

    def __init__(self, dim: int, *, query: int | None = None, hidden: int = 32) -> None:
        super().__init__()
        self.frame = nn.Linear(dim, hidden)
        self.query = None if query is None else nn.Linear(query, hidden, bias=False)
        self.w = nn.Linear(hidden, 1, bias=False)

    def forward(self, frames: Tensor, query: Tensor | None = None) -> Pooled:
        """Frames (B, T, dim), query (B, query) or None -> Pooled."""
        if (query is None) != (self.query is None):
            raise ValueError(
                "a query was given but the module was built without one"
                if self.query is None
                else "the module was built with a query; pass it"
            )
        hidden = self.frame(frames)
        if query is not None and self.query is not None:
            hidden = hidden + self.query(query)[:, None]
        weights = self.w(torch.tanh(hidden)).squeeze(-1).softmax(-1)
        return Pooled((weights[:, None] @ frames).squeeze(1), weights)


class ClipClassifier(nn.Module):
    """Small convolution per grey frame, attention over time, linear head.

    Args:
        side: frame side in pixels, a multiple of 4.
        classes: number of classes.
        dim: size of a frame's vector.
    """

    def __init__(self, *, side: int = 16, classes: int = 10, dim: int = 48) -> None:
        super().__init__()
        self.frame = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(32 * (side // 4) ** 2, dim),
            nn.ReLU(),
        )
        self.attention = TemporalAttention(dim)
        self.head = nn.Linear(dim, classes)

    def forward(self, clip: Tensor) -> ClipOutput:
        """(B, T, 1, side, side) -> logits (B, classes), attention (B, T)."""
        frames = self.frame(clip.flatten(0, 1)).view(*clip.shape[:2], -1)
        pooled = self.attention(frames)
        return ClipOutput(self.head(pooled.output), pooled.attention)
