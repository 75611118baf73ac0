"""FEM, the feature-based explanation method."""

from torch import Tensor

from ._register import register_cam


@register_cam("fem", paper="doi:10.1109/MIPR49039.2020.00048", units="activation",
              needs_gradient=False)  # fmt: skip
def fem(activation: Tensor, gradient: Tensor | None = None, *, sigmas: float = 2.0) -> Tensor:
    """FEM: where channels are unusually strong, no class (Fuad et al. 2020).

    M = sum_k mean(A_k) [A_k >= mean(A_k) + sigmas std(A_k)]: each channel marks its rare strong
    positions (the k-sigma rule) and weighs its mean. pytorch-grad-cam weighs the activation itself
    by the share of marked positions, which is another map.

    Args:
        activation: (B, C, h, w).
        gradient: not used.
        sigmas: how many standard deviations above its mean a channel marks.

    Returns:
        (B, h, w) in units of the activation.
    """
    mean = activation.mean((-2, -1), keepdim=True)
    spread = activation.std((-2, -1), keepdim=True, correction=0)
    marked = (activation >= mean + sigmas * spread) & (spread > 0)
    return (mean * marked).sum(1)
