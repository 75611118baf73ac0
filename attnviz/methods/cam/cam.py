"""The original class activation map."""

from torch import Tensor

from ._register import register_cam


@register_cam(
    "cam",
    paper="arXiv:1512.04150",
    units="logit (mean + bias = logit)",
    needs_linear_head=True,
    signed=True,
)
def cam(activation: Tensor, gradient: Tensor) -> Tensor:
    """CAM: the classifier's weights applied at every position (Zhou et al. 2016).

    M = sum_k w_k A_k, where the logit is w . GAP(A) + b, so that mean(M) + b = logit. There the
    gradient of the logit is w / (h w) everywhere and its sum over positions is w: the weights
    are read off it. `explain` checks that the model has such a head.

    Args:
        activation: (B, C, h, w).
        gradient: (B, C, h, w), d score / d activation.

    Returns:
        (B, h, w) in units of the logit.
    """
    weights = gradient.sum((-2, -1), keepdim=True)
    return (weights * activation).sum(1)
