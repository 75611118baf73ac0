"""Attention gate: what a U-Net's skip connection lets through is decided by the deeper layer.

Equation (Oktay and others 2018, arXiv:1804.03999)::

    q_i = psi^T relu(W_x x_i + W_g g_i + b_g) + b_psi
    alpha_i = sigmoid(q_i),   x^_i = alpha_i x_i

x is the skip connection, g the gating signal of the coarser layer; alpha is one number per place.
W_x strides down to g's grid and alpha is brought back to x's by bilinear interpolation.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Gated(NamedTuple):
    """A gated skip connection."""

    output: Tensor
    """(B, C, H, W)."""
    gate: Tensor
    """(B, 1, H, W): alpha, each in [0, 1]; not normalised over the image."""


class Segmented(NamedTuple):
    """What the small attention U-Net returns."""

    logits: Tensor
    """(B, classes, H, W)."""
    gate: Tensor
    """(B, 1, H, W): alpha of its one gate."""


class AttentionGate(nn.Module):
    """Gate a skip connection by a coarser signal.

    Args:
        channels: channels of x.
        gating: channels of g.
        hidden: channels of the joint space.
        stride: how many times finer x is than g.
    """

    def __init__(self, channels: int, gating: int, hidden: int, *, stride: int = 2) -> None:
        super().__init__()
        self.x = nn.Conv2d(channels, hidden, stride, stride=stride, bias=False)
        self.g = nn.Conv2d(gating, hidden, 1)
        self.psi = nn.Conv2d(hidden, 1, 1)

    def forward(self, x: Tensor, g: Tensor) -> Gated:
        """x (B, channels, H, W), g (B, gating, H / stride, W / stride) -> Gated."""
        alpha = torch.sigmoid(self.psi(F.relu(self.x(x) + self.g(g))))
        alpha = F.interpolate(alpha, x.shape[-2:], mode="bilinear", align_corners=False)
        return Gated(alpha * x, alpha)


class AttentionUNet(nn.Module):
    """Two-level U-Net with a gate on its skip connection.

    Args:
        channels: input channels.
        classes: output channels.
        width: channels of the finer level.
    """

    def __init__(self, *, channels: int = 3, classes: int = 2, width: int = 16) -> None:
        super().__init__()

        def level(inside: int, outside: int) -> nn.Sequential:
            return nn.Sequential(
                nn.Conv2d(inside, outside, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(outside, outside, 3, padding=1),
                nn.ReLU(),
            )

        self.fine = level(channels, width)
        self.coarse = nn.Sequential(
            nn.MaxPool2d(2),
            level(width, 2 * width),
            nn.MaxPool2d(2),
            level(2 * width, 2 * width),
            nn.Upsample(scale_factor=2, mode="bilinear"),
        )
        self.gate = AttentionGate(width, 2 * width, width)
        self.up = nn.Conv2d(2 * width, width, 1)
        self.out = nn.Conv2d(2 * width, classes, 3, padding=1)

    def forward(self, image: Tensor) -> Segmented:
        """(B, channels, H, W), sides multiples of 4 -> Segmented."""
        skip = self.fine(image)
        deep = self.coarse(skip)
        passed = self.gate(skip, deep)
        risen = F.interpolate(self.up(deep), skip.shape[-2:], mode="bilinear")
        return Segmented(self.out(torch.cat((passed.output, risen), 1)), passed.gate)
