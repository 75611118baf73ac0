"""Energy inside the mask: which share of the map's positive mass lies on the object."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ._inputs import with_reason
from ._localise import against_masks, skip
from ._register import register_metric
from .protocol import Protocol
from .scores import Scores


@register_metric(
    "energy",
    family="localisation",
    needs=("masks",),
    higher_is_better=True,
    paper="arXiv:1910.01279",
)
def energy(maps: Any, masks: Any) -> Scores:
    """Energy: share of the map's positive mass inside the mask; chance is the mask's prevalence.

    The energy-based pointing game of Wang et al., "Score-CAM" (CVPRW 2020, arXiv:1910.01279), and
    the relevance mass accuracy of Arras, Osman & Samek (2022). Negative values count as zero.

    Args:
        maps: (B, h, w), resized to the masks' size.
        masks: (B, H, W) where the object is.

    Returns:
        `Scores` in [0, 1]; `extra["prevalence"]` (B,) is the share of pixels inside the mask,
        which a constant map scores, and `extra["ratio"]` the energy over it. Skipped: empty and
        full masks, maps without a positive value or with NaN.
    """
    values, inside, reasons = against_masks(maps, masks, flat=False)
    positive = values.clamp_min(0)
    mass = _each(positive)
    reasons = with_reason(reasons, ~(mass > 0), "no positive evidence")
    found = skip(_each(positive * inside) / mass, reasons)
    prevalence = inside.flatten(1).double().mean(1).to(found)
    protocol = Protocol.of("energy", higher_is_better=True)
    extra = {"prevalence": prevalence, "ratio": found / prevalence}
    return Scores(found, protocol, tuple(reasons), extra)


def _each(maps: Tensor) -> Tensor:
    # one map at a time: a sum over a batch may add in another order
    return torch.stack([row.double().sum() for row in maps]).to(maps)
