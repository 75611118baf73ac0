"""XGrad-CAM."""

import torch
from torch import Tensor

from ._register import register_cam


@register_cam("xgradcam", paper="arXiv:2008.02312", units="score / (h w)")
def xgradcam(activation: Tensor, gradient: Tensor) -> Tensor:
    """XGrad-CAM: gradients averaged with the activation as weight (Fu et al. 2020).

    w_k = sum_ij A_kij dS/dA_kij / sum_ij A_kij, M = ReLU(sum_k w_k A_k). A channel whose
    activation sums to zero gets weight zero; no epsilon is added, so sum(M) before the ReLU is
    exactly sum(gradient * activation).

    Args:
        activation: (B, C, h, w).
        gradient: (B, C, h, w), d score / d activation.

    Returns:
        (B, h, w).
    """
    total = activation.sum((-2, -1), keepdim=True)
    weighted = (gradient * activation).sum((-2, -1), keepdim=True)
    empty = total == 0
    weights = torch.where(empty, 0.0, weighted / torch.where(empty, 1.0, total))
    return (weights * activation).sum(1)
