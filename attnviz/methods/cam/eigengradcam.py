"""EigenGrad-CAM."""

from torch import Tensor

from ._register import register_cam
from .eigencam import eigen_smoothed


@register_cam(
    "eigengradcam",
    paper="pytorch-grad-cam (Gildenblat 2021), after arXiv:2008.00299",
    units="score",
    additive=False,
)
def eigengradcam(activation: Tensor, gradient: Tensor) -> Tensor:
    """EigenGrad-CAM: the first principal component of gradient times activation.

    Eigen-CAM made class-discriminative. The sign is chosen so that the map agrees with HiResCAM
    (their inner product is not negative): positive values speak for the score.

    Args:
        activation: (B, C, h, w).
        gradient: (B, C, h, w), d score / d activation.

    Returns:
        (B, h, w) in units of the score.
    """
    return eigen_smoothed(gradient * activation)
