"""Eigen-CAM, and the principal projection that EigenGrad-CAM and eigen smoothing share."""

import torch
from torch import Tensor

from ._register import register_cam


def principal_projection(features: Tensor) -> Tensor:
    """Project every position's feature vector on the first right singular vector.

    With the positions as rows, O = U S V^T and the result is O v_1. The smaller of the two Gram
    matrices is decomposed, which is some hundred times cheaper than the singular values of O.
    A singular vector has no sign of its own: it is chosen so that the projection's sum is not
    negative. If the two largest singular values coincide, the direction is not determined.

    Args:
        features: (B, C, h, w).

    Returns:
        (B, h, w).
    """
    batch, channels, height, width = features.shape
    rows = features.flatten(2).transpose(1, 2)  # (B, hw, C)
    # scaled so that squaring neither overflows nor underflows
    scale = rows.abs().amax((1, 2), keepdim=True)
    scaled = rows / torch.where(scale == 0, 1.0, scale)
    if height * width <= channels:
        values, vectors = torch.linalg.eigh(scaled @ scaled.mT)
        # O v_1 = s_1 u_1
        first = vectors[..., -1] * values[..., -1:].clamp_min(0).sqrt()
    else:
        _, vectors = torch.linalg.eigh(scaled.mT @ scaled)
        first = (scaled @ vectors[..., -1:])[..., 0]
    sign = torch.where(first.sum(-1, keepdim=True) < 0, -1.0, 1.0)
    return (first * sign * scale[..., 0]).view(batch, height, width)


def eigen_smoothed(parts: Tensor) -> Tensor:
    """Return what is common to the parts of a map: their first principal component, (B, h, w).

    Args:
        parts: (B, C, h, w) what each channel adds. The sign is chosen so that the result agrees
            with their sum (the inner product is not negative).
    """
    values = principal_projection(parts)
    agreement = (values * parts.sum(1)).sum((-2, -1), keepdim=True)
    return torch.where(agreement < 0, -values, values)


@register_cam(
    "eigencam", paper="arXiv:2008.00299", units="activation", needs_gradient=False, additive=False
)
def eigencam(activation: Tensor, gradient: Tensor | None = None) -> Tensor:
    """Eigen-CAM: the activation's first principal component, no class (Muhammad & Yeasin 2020).

    As in the paper the activation is not centred (pytorch-grad-cam centres it). The map says
    what the layer holds most of, not what any class rests on.

    Args:
        activation: (B, C, h, w).
        gradient: not used.

    Returns:
        (B, h, w) in units of the activation.
    """
    return principal_projection(activation)
