"""Recurrent attention model (RAM): a chain of small glimpses, each placed by the network itself.

Equations (Mnih, Heess, Graves, Kavukcuoglu 2014, arXiv:1406.6247)::

    g_t = f_g(rho(x, l_t), l_t)            rho: patches of size w, 2w, 4w around l_t, each at w x w
    h_t = f_h(h_{t-1}, g_t)
    l_{t+1} ~ N(tanh(W_l h_t), sigma^2 I)   hard attention: a place, not a weighting
    dJ/dphi = E[ sum_t dlog pi(l_t | h_t)/dphi (R - b_t) ]        REINFORCE; b_t the baseline

A glimpse's place is sampled, so no gradient runs through it. REINFORCE raises the probability of
the places taken when the reward R (1 for a right class, else 0) was better than expected (b_t).

Locations are (x, y), normalised: -1 is the left or top edge, 1 the right or bottom edge.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class GlimpsePath(NamedTuple):
    """Where the model looked, and what it concluded."""

    logits: Tensor
    """(B, classes), after the last glimpse."""
    steps: Tensor
    """(B, T, classes), after each glimpse."""
    locations: Tensor
    """(B, T, 2): the attention, normalised (x, y) of each glimpse in order."""
    log_prob: Tensor
    """(B, T - 1): log density of each location drawn (the first one is given)."""
    patches: Tensor
    """(B, T, scales * C, size, size): what each glimpse saw."""


def glimpse(image: Tensor, location: Tensor, *, size: int, scales: int = 1) -> Tensor:
    """Read patches of `size`, 2 `size`, 4 `size` ... pixels around a location.

    Args:
        image: (B, C, H, W).
        location: (B, 2) normalised (x, y).
        size: side of each returned patch in pixels.
        scales: how many windows, each twice as wide as the one before, averaged down to `size`.

    Returns:
        (B, scales * C, size, size), the finest first; outside the image reads as 0. Bilinear
        between pixels, so the retina itself is differentiable in `location`.
    """
    height, width = image.shape[-2:]
    x, y = location.unbind(1)
    patches = []
    for scale in range(scales):
        side = size * 2**scale
        rows, columns = _hats(y, side, height), _hats(x, side, width)
        patch = rows[:, None] @ image @ columns[:, None].mT
        patches.append(F.avg_pool2d(patch, 2**scale) if scale else patch)
    return torch.cat(patches, 1)


def _hats(centre: Tensor, side: int, length: int) -> Tensor:
    """Weights (B, side, length) that read `side` pixels of an axis around a normalised centre.

    Bilinear sampling of an upright window is one such factor an axis: max(0, 1 - |distance|).
    """
    middle = ((centre + 1) * length - 1) / 2
    wanted = middle[:, None] + torch.arange(side).to(centre) - (side - 1) / 2
    return (1 - (wanted[:, :, None] - torch.arange(length).to(centre)).abs()).clamp_min(0)


def normal_log_prob(value: Tensor, mean: Tensor, std: float) -> Tensor:
    """Log density of an isotropic normal, summed over the last axis."""
    gap = ((value - mean) / std).square().sum(-1)
    return -0.5 * gap - value.shape[-1] * (math.log(std) + 0.5 * math.log(2 * math.pi))


class RecurrentAttention(nn.Module):
    """RAM for grey images.

    Args:
        classes: number of classes.
        size: side of the finest glimpse in pixels.
        scales: windows per glimpse.
        glimpses: T, glimpses per image; the first is at the image's centre.
        hidden: state size.
        std: standard deviation of the sampled locations while training (`explore=True`).
    """

    def __init__(
        self,
        *,
        classes: int = 10,
        size: int = 8,
        scales: int = 3,
        glimpses: int = 5,
        hidden: int = 128,
        std: float = 0.15,
    ) -> None:
        super().__init__()
        self.size, self.scales, self.glimpses, self.std = size, scales, glimpses, std
        self.what = nn.Linear(scales * size * size, hidden)
        self.where = nn.Linear(2, hidden)
        self.merge = nn.Linear(hidden, hidden)
        self.cell = nn.GRUCell(hidden, hidden)
        self.locate = nn.Linear(hidden, 2)
        self.head = nn.Linear(hidden, classes)

    @staticmethod
    def hard_attention(inputs: tuple[Tensor, ...], output: GlimpsePath) -> tuple[Tensor, str, str]:
        """Tell `attnviz.inspect`: the places (B, T, 2), normalised (x, y), in order."""
        count = output.locations.shape[1]
        return output.locations, "glimpses", f"{count} glimpses, one place (x, y) each"

    def forward(
        self, image: Tensor, *, explore: bool = False, generator: torch.Generator | None = None
    ) -> GlimpsePath:
        """(B, 1, H, W) -> GlimpsePath. Without `explore` each location is its mean, repeatable."""
        location = image.new_zeros(image.shape[0], 2)
        state = image.new_zeros(image.shape[0], self.cell.hidden_size)
        locations, log_probs, patches, logits = [], [], [], []
        for step in range(self.glimpses):
            patch = glimpse(image, location, size=self.size, scales=self.scales)
            seen = F.relu(self.what(patch.flatten(1)) * torch.sigmoid(self.where(location)))
            state = self.cell(F.relu(self.merge(seen)), state)
            locations.append(location)
            patches.append(patch)
            logits.append(self.head(state))
            if step == self.glimpses - 1:
                break
            mean = torch.tanh(self.locate(state))
            drawn = mean.detach()
            if explore:
                drawn = drawn + self.std * torch.randn(mean.shape, generator=generator).to(mean)
            # the draw itself is scored, not the clamped place: else the edges would attract
            log_probs.append(normal_log_prob(drawn, mean, self.std))
            location = drawn.clamp(-1, 1)
        return GlimpsePath(
            logits[-1],
            torch.stack(logits, 1),
            torch.stack(locations, 1),
            torch.stack(log_probs, 1),
            torch.stack(patches, 1),
        )


def reinforce(log_prob: Tensor, reward: Tensor, baseline: Tensor) -> Tensor:
    """Surrogate loss whose gradient is minus the REINFORCE estimate, baseline not trained by it.

    Args:
        log_prob: (B, T) log probability of each choice, with a graph.
        reward: (B, T) what followed each choice.
        baseline: (B, T) what was expected.

    Returns:
        A scalar: mean over images of minus the sum over t of log_prob (reward - baseline).
    """
    advantage = (reward - baseline).detach()
    return -(log_prob * advantage).sum(1).mean()
