"""LayerCAM."""

from torch import Tensor

from ._register import register_cam


@register_cam("layercam", paper="10.1109/TIP.2021.3089943", units="score")
def layercam(activation: Tensor, gradient: Tensor) -> Tensor:
    """LayerCAM: the positive gradient weights each position (Jiang et al. 2021).

    M = ReLU(sum_k ReLU(dS/dA_k) * A_k). With A >= 0 it is never below HiResCAM.

    Args:
        activation: (B, C, h, w).
        gradient: (B, C, h, w), d score / d activation.

    Returns:
        (B, h, w) in units of the score.
    """
    return (gradient.relu() * activation).sum(1)
