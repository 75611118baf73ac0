"""Saliency: the gradient itself."""

from __future__ import annotations

import torch
from torch import Tensor

from ._register import register_attribution
from ._run import Job


@register_attribution("saliency", paper="arXiv:1312.6034", units="score / input", signed=None)
def saliency(job: Job) -> Tensor:
    """Saliency: the largest |dS/dx| of each pixel's channels (Simonyan et al. 2014).

    Args:
        job: the images.

    Returns:
        (K, g, H, W), not negative.
    """
    return torch.stack([job.gradient(job.inputs, k).abs().amax(1) for k in job.classes])
