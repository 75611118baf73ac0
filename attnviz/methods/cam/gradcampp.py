"""Grad-CAM++ in the paper's closed form and with exact higher derivatives."""

import torch
from torch import Tensor

from ._register import register_cam


def gradcampp_from_derivatives(
    activation: Tensor, first: Tensor, second: Tensor, third: Tensor
) -> Tensor:
    """Grad-CAM++ from the diagonal derivatives of Y = exp(S), before any simplification.

    alpha_ij = Y''_ij / (2 Y''_ij + sum_ab A_ab Y'''_ij), w_k = sum_ij alpha_ij ReLU(Y'_ij)
    (Chattopadhyay et al. 2018, arXiv:1710.11063, equations 10 and 19 there). Where the
    denominator is zero alpha is zero: such a position has no gradient.

    Args:
        activation: (B, C, h, w).
        first, second, third: (B, C, h, w), the first three derivatives of Y by each single
            element of the activation. A common positive factor per image cancels in alpha.

    Returns:
        (B, h, w).
    """
    total = activation.sum((-2, -1), keepdim=True)
    denominator = 2 * second + total * third
    flat = denominator == 0
    alpha = torch.where(flat, 0.0, second / torch.where(flat, 1.0, denominator))
    weights = (alpha * first.relu()).sum((-2, -1), keepdim=True)
    return (weights * activation).sum(1)


@register_cam("gradcam++", paper="arXiv:1710.11063", units="score", aliases=("gradcampp",))
def gradcampp(activation: Tensor, gradient: Tensor) -> Tensor:
    """Grad-CAM++: positions weighted by a ratio of higher derivatives (Chattopadhyay et al. 2018).

    The closed form for Y = exp(S): alpha = g^2 / (2 g^2 + sum_ab A_ab g^3). It is exact where the
    score S is piecewise linear in the activation (ReLU networks), for there S'' = S''' = 0 and
    Y'' = Y g^2, Y''' = Y g^3. For smooth tails (GELU, softmax) it is the paper's approximation;
    `gradcampp_from_derivatives` is the exact form.

    Differs from the paper in leaving out the factor exp(S) of dY/dA, one positive number per
    image, which overflows for large logits and does not change the normalised map.

    Args:
        activation: (B, C, h, w).
        gradient: (B, C, h, w), d score / d activation.

    Returns:
        (B, h, w).
    """
    return gradcampp_from_derivatives(activation, gradient, gradient.square(), gradient.pow(3))
