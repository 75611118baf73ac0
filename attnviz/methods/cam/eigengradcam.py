"""EigenGrad-CAM."""

import torch
from torch import Tensor

from ._register import register_cam
from .eigencam import principal_projection


@register_cam(
    "eigengradcam",
    paper="pytorch-grad-cam (Gildenblat 2021), after arXiv:2008.00299",
    units="score",
)
def eigengradcam(activation: Tensor, gradient: Tensor, *, relu: bool = True) -> Tensor:
    """EigenGrad-CAM: the first principal component of gradient times activation.

    Eigen-CAM made class-discriminative. The sign is chosen so that the map agrees with HiResCAM
    (their inner product is not negative): positive values speak for the score.

    Args:
        activation: (B, C, h, w).
        gradient: (B, C, h, w), d score / d activation.
        relu: drop the negative part.

    Returns:
        (B, h, w) in units of the score.
    """
    product = gradient * activation
    values = principal_projection(product)
    agreement = (values * product.sum(1)).sum((-2, -1), keepdim=True)
    values = torch.where(agreement < 0, -values, values)
    return values.relu() if relu else values
