"""CutMix: a rectangle of each image comes from another one, and the label in its share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .schemes import SCHEMES, flat_logits


@dataclass(frozen=True, eq=False)
class Mixed:
    """A mixed batch.

    Attributes:
        images: (B, C, H, W).
        order: (B,) the image that each rectangle comes from.
        box: (x0, y0, x1, y1), the rectangle in half-open pixels, the same for all.
        share: the part of each image that is its own, in [0, 1], exactly.
    """

    images: Tensor
    order: Tensor
    box: tuple[int, int, int, int]
    share: float


def cut_and_mix(
    images: Tensor, *, beta: float = 1.0, generator: torch.Generator | None = None
) -> Mixed:
    """Return images with one rectangle exchanged (Yun et al. 2019, arXiv:1905.04899).

    The rectangle has the image's shape, an area drawn from Beta(beta, beta), and may reach over
    the border; the share counts what is left of it.

    Args:
        images: (B, C, H, W).
        beta: 1 draws all areas alike.
        generator: of pairs, areas and places.
    """
    device = images.device if generator is None else generator.device
    count, _, height, width = images.shape
    order = torch.randperm(count, generator=generator, device=device).to(images.device)
    own = _beta(beta, generator, device)
    cut_h, cut_w = (round(side * (1 - own) ** 0.5) for side in (height, width))
    y, x = (
        int(torch.randint(side, (1,), generator=generator, device=device))
        for side in (height, width)
    )
    y0, y1 = max(y - cut_h // 2, 0), min(y - cut_h // 2 + cut_h, height)
    x0, x1 = max(x - cut_w // 2, 0), min(x - cut_w // 2 + cut_w, width)
    mixed = images.clone()
    mixed[:, :, y0:y1, x0:x1] = images[order][:, :, y0:y1, x0:x1]
    share = 1 - max(y1 - y0, 0) * max(x1 - x0, 0) / (height * width)
    return Mixed(mixed, order, (x0, y0, x1, y1), share)


def _beta(beta: float, generator: torch.Generator | None, device: torch.device) -> float:
    if beta == 1.0:
        return float(torch.rand(1, generator=generator, device=device))
    # torch draws Beta numbers from no generator but the global one
    seed = int(torch.randint(2**31 - 1, (1,), generator=generator, device=device))
    return float(np.random.default_rng(seed).beta(beta, beta))


@SCHEMES.register("cutmix", paper="arXiv:1905.04899", family="input")
def cutmix(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    layer: object = None,
    generator: torch.Generator | None = None,
    **options: float,
) -> Tensor:
    """CutMix: cross-entropy with both labels, in the shares of their areas (Yun et al. 2019)."""
    mixed = cut_and_mix(images, generator=generator, **options)
    logits = flat_logits(model(mixed.images))
    return mixed.share * F.cross_entropy(logits, labels) + (1 - mixed.share) * F.cross_entropy(
        logits, labels[mixed.order]
    )
