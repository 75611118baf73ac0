"""KPCA-CAM: Eigen-CAM with a kernel."""

import torch
from torch import Tensor

from ...errors import MethodError
from ._register import register_cam

KERNELS = ("sigmoid", "rbf", "linear")


@register_cam("kpcacam", paper="arXiv:2410.00267", units="kernel", needs_gradient=False,
              additive=False, aliases=("kpca-cam",))  # fmt: skip
def kpcacam(
    activation: Tensor,
    gradient: Tensor | None = None,
    *,
    kernel: str = "sigmoid",
    gamma: float | None = None,
) -> Tensor:
    """KPCA-CAM: the activation's first kernel principal component, no class (Karmani et al. 2024).

    Positions are samples and channels, centred, their features; the kernel matrix is centred and
    its first eigenvector times the root of its eigenvalue is the map. Its sign, which it has not
    by itself, is chosen so that it rises with the channels' mean. With the linear kernel it is
    principal component analysis.

    Args:
        activation: (B, C, h, w). The kernel is a matrix of positions by positions.
        gradient: not used.
        kernel: "sigmoid": tanh(gamma x.y + 1), "rbf": exp(-gamma |x - y|^2), or "linear".
        gamma: None is one over the number of channels.

    Returns:
        (B, h, w).
    """
    if kernel not in KERNELS:
        raise MethodError(f"kernel={kernel!r} is one of {', '.join(KERNELS)}")
    batch, channels, height, width = activation.shape
    gamma = 1 / channels if gamma is None else gamma
    rows = activation.flatten(2).mT
    rows = rows - rows.mean(1, keepdim=True)
    matrix = rows @ rows.mT
    if kernel == "sigmoid":
        matrix = torch.tanh(gamma * matrix + 1)
    elif kernel == "rbf":
        square = matrix.diagonal(dim1=-2, dim2=-1)
        distance = square[:, :, None] + square[:, None] - 2 * matrix
        matrix = torch.exp(-gamma * distance.clamp_min(0))
    matrix = matrix - matrix.mean(1, keepdim=True)
    matrix = matrix - matrix.mean(2, keepdim=True)
    eigenvalues, vectors = torch.linalg.eigh(matrix)
    first = vectors[..., -1] * eigenvalues[..., -1:].clamp_min(0).sqrt()
    level = activation.flatten(2).mean(1)
    agreement = (first * (level - level.mean(1, keepdim=True))).sum(1, keepdim=True)
    return torch.where(agreement < 0, -first, first).view(batch, height, width)
