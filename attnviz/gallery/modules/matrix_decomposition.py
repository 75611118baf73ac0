"""Matrix-decomposition attention (Hamburger): global context is the low-rank part of the features.

Equations (Geng, Guo, Chen, Li, Wei, Lin 2021, arXiv:2109.04553), with non-negative factorisation::

    Y = relu(W_l X)                         lower bread
    D, C = argmin || Y - D C^T ||,  D, C >= 0    the ham: R columns, a few multiplicative steps
    C <- C * (Y^T D) / (C D^T D),   D <- D * (Y C) / (D C^T C)
    out = X + W_u (D C^T)                   upper bread

The attention is C: how much of each of the R parts is present at each pixel. Gradients run through
the last update of C alone (the paper's one-step gradient).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Decomposed(NamedTuple):
    """Output, codes and dictionary of a hamburger."""

    output: Tensor
    """(B, C, H, W)."""
    attention: Tensor
    """(B, R, H, W): codes, >= 0, not normalised."""
    dictionary: Tensor
    """(B, C, R): what each part is made of, >= 0."""


def update_codes(x: Tensor, dictionary: Tensor, codes: Tensor) -> Tensor:
    """Multiplicative update of the codes: x (B, C, N), dictionary (B, C, R), codes (B, N, R)."""
    up = x.transpose(1, 2) @ dictionary
    down = codes @ (dictionary.transpose(1, 2) @ dictionary)
    return codes * up / (down + torch.finfo(x.dtype).eps)


def update_dictionary(x: Tensor, dictionary: Tensor, codes: Tensor) -> Tensor:
    """Multiplicative update of the dictionary, same shapes."""
    up = x @ codes
    down = dictionary @ (codes.transpose(1, 2) @ codes)
    return dictionary * up / (down + torch.finfo(x.dtype).eps)


def factorise(
    x: Tensor, dictionary: Tensor, *, steps: int, sharpness: float | None = None
) -> tuple[Tensor, Tensor]:
    """Factorise x (B, C, N) >= 0 from a first dictionary (B, C, R): it and codes (B, N, R).

    The first codes are softmax(x^T d), as in the paper, or softmax(sharpness cos(x, d)): nearly
    equal columns take many steps to part, unless they begin with different pixels.
    """
    if sharpness is None:
        codes = (x.transpose(1, 2) @ dictionary).softmax(-1)
    else:
        codes = (sharpness * F.normalize(x, dim=1).transpose(1, 2) @ dictionary).softmax(-1)
    for _ in range(steps):
        codes = update_codes(x, dictionary, codes)
        dictionary = update_dictionary(x, dictionary, codes)
    return dictionary, codes


class Hamburger(nn.Module):
    """Non-negative matrix factorisation between two 1 x 1 convolutions.

    Args:
        channels: input and output channels.
        rank: R.
        steps: multiplicative steps.
        sharpness: of the first codes, see `factorise`; None as in the paper.
    """

    initial: Tensor

    def __init__(
        self,
        channels: int,
        *,
        rank: int = 8,
        steps: int = 6,
        sharpness: float | None = None,
    ) -> None:
        super().__init__()
        self.lower = nn.Conv2d(channels, channels, 1)
        self.upper = nn.Conv2d(channels, channels, 1, bias=False)
        self.steps, self.sharpness = steps, sharpness
        # fixed, so that the same image always gets the same parts (the paper draws it anew)
        self.register_buffer("initial", F.normalize(torch.rand(channels, rank), dim=0))

    @staticmethod
    def own_attention(inputs: tuple[Tensor], output: Decomposed) -> tuple[Tensor, str, str, str]:
        """What `attnviz.inspect` says of it: weights, kind, mechanism, what attends to what."""
        rank, height, width = output.attention.shape[1:]
        attends = f"how much of {rank} parts is in each of {height} x {width} pixels"
        return output.attention, "spatial", "matrix decomposition", attends

    def forward(self, maps: Tensor) -> Decomposed:
        """(B, C, H, W) -> Decomposed."""
        batch, channels, height, width = maps.shape
        x = F.relu(self.lower(maps)).flatten(2)
        with torch.no_grad():
            start = self.initial.expand(batch, -1, -1)
            dictionary, codes = factorise(x, start, steps=self.steps, sharpness=self.sharpness)
        codes = update_codes(x, dictionary, codes)
        low_rank = dictionary @ codes.transpose(1, 2)
        context = self.upper(low_rank.view(batch, channels, height, width))
        output = maps + context
        attention = codes.transpose(1, 2).reshape(batch, -1, height, width)
        return Decomposed(output, attention, dictionary)
