"""Expectation-maximisation attention: K bases instead of N keys, found by a few steps of EM.

Equations (Li, Zhong, Wu, Yang, Lin, Liu 2019, EMANet, arXiv:1907.13426)::

    E:  Z = softmax_k(lambda X mu^T)            (N x K): which basis stands for which pixel
    M:  mu_k = sum_n z_nk x_n / sum_n z_nk       then scaled to length 1
    X~ = Z mu                                   after T rounds: X rebuilt from K bases

The attention is Z: a soft segmentation of the image into K parts; N x K, never N x N.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class EMAttended(NamedTuple):
    """Output, responsibilities and bases of EM attention."""

    output: Tensor
    """(B, C, H, W)."""
    attention: Tensor
    """(B, K, H, W): responsibilities Z of the last round, summing to 1 over K at each pixel."""
    bases: Tensor
    """(B, K, C): mu, each of length 1."""


def em_step(x: Tensor, bases: Tensor, *, sharpness: float = 1.0) -> tuple[Tensor, Tensor]:
    """One round: x (B, N, C), bases (B, K, C) -> weights (B, N, K), new bases (B, K, C)."""
    weights = (sharpness * (x @ bases.transpose(1, 2))).softmax(-1)
    share = weights / weights.sum(1, keepdim=True).clamp_min(1e-6)
    return weights, F.normalize(share.transpose(1, 2) @ x, dim=-1)


class EMAttention(nn.Module):
    """EM attention unit.

    Args:
        channels: input and output channels.
        bases: K.
        rounds: T.
        sharpness: lambda, 1 in the paper.
        momentum: share of the old initial bases kept at each training step.
    """

    initial: Tensor

    def __init__(
        self,
        channels: int,
        *,
        bases: int = 8,
        rounds: int = 3,
        sharpness: float = 1.0,
        momentum: float = 0.9,
    ) -> None:
        super().__init__()
        self.before = nn.Conv2d(channels, channels, 1)
        self.after = nn.Conv2d(channels, channels, 1)
        self.rounds, self.sharpness, self.momentum = rounds, sharpness, momentum
        self.register_buffer("initial", F.normalize(torch.randn(bases, channels), dim=-1))

    @staticmethod
    def own_attention(inputs: tuple[Tensor], output: EMAttended) -> tuple[Tensor, str, str, str]:
        """What `attnviz.inspect` says of it: weights, kind, mechanism, what attends to what."""
        bases, height, width = output.attention.shape[1:]
        attends = f"each of {height} x {width} pixels shares itself out to {bases} bases"
        return output.attention, "spatial", "expectation-maximisation attention", attends

    def forward(self, maps: Tensor) -> EMAttended:
        """(B, C, H, W) -> EMAttended. In training mode the initial bases follow the data."""
        batch, channels, height, width = maps.shape
        x = self.before(maps).flatten(2).transpose(1, 2)
        bases = self.initial.expand(batch, -1, -1)
        with torch.no_grad():  # as in the paper's code: no gradient through the rounds
            for _ in range(self.rounds - 1):
                bases = em_step(x, bases, sharpness=self.sharpness)[1]
        weights, bases = em_step(x, bases, sharpness=self.sharpness)
        rebuilt = (weights @ bases).transpose(1, 2).reshape(batch, channels, height, width)
        if self.training:
            with torch.no_grad():
                mean = bases.mean(0)
                moved = self.momentum * self.initial + (1 - self.momentum) * mean
                self.initial.copy_(F.normalize(moved, dim=-1))
        context = self.after(F.relu(rebuilt))
        output = F.relu(maps + context)
        attention = weights.transpose(1, 2).reshape(batch, -1, height, width)
        return EMAttended(output, attention, bases)
