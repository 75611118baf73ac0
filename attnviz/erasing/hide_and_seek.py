"""Hide-and-seek: random cells of the picture are hidden, so that no single part is enough."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .fills import erase
from .schemes import SCHEMES, flat_logits


def hide_cells(
    images: Tensor,
    *,
    cells: int | Sequence[int] = (3, 4, 6, 8),
    probability: float = 0.5,
    fill: str = "mean",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return images with each cell of a grid hidden with a probability (Singh & Lee 2017).

    arXiv:1704.04861. Differs from the paper: grids are given by cells a side, since the paper's 16
    to 56 pixels belong to 224; the fill is each image's own mean rather than the data set's.

    Args:
        images: (B, C, H, W).
        cells: of a side; of several, one is drawn a batch.
        probability: that a cell is hidden.
        fill: see `FILLS`.
        generator: of grids, cells and noise.
    """
    choices = [cells] if isinstance(cells, int) else list(cells)
    device = images.device if generator is None else generator.device
    pick = int(torch.randint(len(choices), (1,), generator=generator, device=device))
    side = choices[pick]
    draws = torch.rand(len(images), 1, side, side, generator=generator, device=device)
    masks = F.interpolate((draws < probability).to(images), images.shape[-2:], mode="nearest")
    return erase(images, masks, fill=fill, generator=generator)


@SCHEMES.register("has", paper="arXiv:1704.04861", family="input", aliases=("hide-and-seek",))
def has(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    layer: object = None,
    generator: torch.Generator | None = None,
    **options: Any,
) -> Tensor:
    """Hide-and-seek: cross-entropy on images with random cells hidden (Singh & Lee 2017)."""
    hidden = hide_cells(images, generator=generator, **options)
    return F.cross_entropy(flat_logits(model(hidden)), labels)
