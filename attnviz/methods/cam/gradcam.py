"""Grad-CAM."""

from torch import Tensor

from ._register import register_cam


@register_cam("gradcam", paper="arXiv:1610.02391", units="score / (h w)", aliases=("grad-cam",))
def gradcam(activation: Tensor, gradient: Tensor) -> Tensor:
    """Grad-CAM: channels weighted by their mean gradient (Selvaraju et al. 2017).

    M = ReLU(sum_k mean_ij(dS/dA_k) A_k). On a GAP + linear head it is CAM / (h w).

    Args:
        activation: (B, C, h, w).
        gradient: (B, C, h, w), d score / d activation.

    Returns:
        (B, h, w).
    """
    weights = gradient.mean((-2, -1), keepdim=True)
    return (weights * activation).sum(1)
