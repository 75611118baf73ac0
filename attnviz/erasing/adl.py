"""ADL: inside the network, the most attended positions are dropped or the map is highlighted."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .schemes import SCHEMES, run_with_branches


def attention_dropout(
    features: Tensor,
    *,
    rate: float = 0.75,
    gamma: float = 0.8,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return features times either a drop mask or an importance map, drawn image by image.

    The attention is the channels' mean; the drop mask is 0 where it is above `gamma` times its
    maximum; the importance map is its sigmoid (Choe & Shim 2019, arXiv:1908.10028).

    Args:
        features: (B, C, h, w).
        rate: probability of the drop mask.
        gamma: share of the maximum.
        generator: of the draws.
    """
    attention = features.mean(1, keepdim=True)
    most = attention.amax((-2, -1), keepdim=True)
    dropped = (attention <= gamma * most).to(features)
    device = features.device if generator is None else generator.device
    draws = torch.rand(len(features), 1, 1, 1, generator=generator, device=device)
    drop = draws.to(features.device) < rate
    return features * torch.where(drop, dropped, attention.sigmoid())


@SCHEMES.register("adl", paper="arXiv:1908.10028", family="features")
def adl(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    layer: str | nn.Module | None = None,
    generator: torch.Generator | None = None,
    rate: float = 0.75,
    gamma: float = 0.8,
) -> Tensor:
    """ADL: cross-entropy behind an attention-based dropout layer (Choe & Shim 2019).

    Differs from the paper in one place: one layer, where the paper inserts it at several.
    """

    def branch(features: Tensor) -> list[Tensor]:
        return [attention_dropout(features, rate=rate, gamma=gamma, generator=generator)]

    (logits,) = run_with_branches(model, images, layer, branch)
    return F.cross_entropy(logits, labels)
