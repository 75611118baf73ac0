"""HiResCAM."""

from torch import Tensor

from ._register import register_cam


@register_cam("hirescam", paper="arXiv:2011.08891", units="score")
def hirescam(activation: Tensor, gradient: Tensor) -> Tensor:
    """HiResCAM: gradient times activation at every position (Draelos & Carin 2020).

    M = sum_k dS/dA_k * A_k. Without the ReLU, sum(M) + bias = logit wherever one linear layer
    follows the last convolution.

    Args:
        activation: (B, C, h, w).
        gradient: (B, C, h, w), d score / d activation.

    Returns:
        (B, h, w) in units of the score.
    """
    return (gradient * activation).sum(1)
