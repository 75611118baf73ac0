"""EIL: each image is classified twice in one pass, with and without its most attended region."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .schemes import SCHEMES, run_with_branches


@SCHEMES.register("eil", paper="doi:10.1109/CVPR42600.2020.00879", family="features")
def eil(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    layer: str | nn.Module | None = None,
    generator: torch.Generator | None = None,
    threshold: float = 0.7,
    weight: float = 1.0,
) -> Tensor:
    """EIL: cross-entropy of the whole features plus that of the erased ones (Mai et al. 2020).

    Positions where the channels' mean exceeds `threshold` times its maximum are zero in the
    second branch; both share every weight behind the layer, in one pass.

    Args:
        model, images, labels, layer, generator: see `SCHEMES`.
        threshold: share of the maximum.
        weight: of the erased branch.
    """

    def branch(features: Tensor) -> list[Tensor]:
        attention = features.detach().mean(1, keepdim=True)
        most = attention.amax((-2, -1), keepdim=True)
        return [features, features * (attention <= threshold * most)]

    whole, erased = run_with_branches(model, images, layer, branch)
    return F.cross_entropy(whole, labels) + weight * F.cross_entropy(erased, labels)


@SCHEMES.register("seenet", paper="arXiv:1810.09821", family="features")
def seenet(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    layer: str | nn.Module | None = None,
    generator: torch.Generator | None = None,
    high: float = 0.7,
    low: float = 0.05,
    weight: float = 1.0,
) -> Tensor:
    """Self-erasing: erase the certain, keep off the background (after Hou et al. 2018).

    Three branches behind the layer: the features as they are; the features without the most
    attended positions and with the sign turned where attention is lowest, behind a ReLU (so the
    background cannot serve as evidence), which must keep the class; and the background alone,
    which must be undecided. Differs from the paper: attention is the channels' mean and not a
    branch's own map, and "no class" is a uniform prediction, since this classifier is a softmax.

    Args:
        model, images, labels, layer, generator: see `SCHEMES`.
        high, low: shares of the maximum above which a position is erased, and below which it is
            background.
        weight: of the two erased branches.
    """

    def branch(features: Tensor) -> list[Tensor]:
        attention = features.detach().mean(1, keepdim=True)
        share = attention / attention.amax((-2, -1), keepdim=True).clamp_min(1e-12)
        ternary = torch.ones_like(share).masked_fill(share > high, 0).masked_fill(share < low, -1)
        background = (share < (high + low) / 2).to(features)
        return [features, (features * ternary).relu(), features * background]

    whole, kept, ground = run_with_branches(model, images, layer, branch)
    undecided = -ground.log_softmax(1).mean(1).mean()
    return F.cross_entropy(whole, labels) + weight * (F.cross_entropy(kept, labels) + undecided)
