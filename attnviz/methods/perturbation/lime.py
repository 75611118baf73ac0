"""LIME."""

from __future__ import annotations

import torch
from torch import Tensor

from ...errors import MethodError
from ...geometry import size_of
from ..altered import AlteredGroup
from ._cells import painted, scores_of, squares
from ._register import register_perturbation


@register_perturbation("lime", paper="arXiv:1602.04938", units="score / pixel")
def lime(
    group: AlteredGroup,
    layer: None,
    *,
    samples: int = 500,
    cell: int | None = None,
    width: float = 0.25,
    ridge: float = 1.0,
    baseline: str | Tensor = "mean",
    seed: int = 0,
) -> Tensor:
    """LIME: a linear model of which cells are shown, fitted near the picture (Ribeiro et al. 2016).

    Each cell is shown with probability 1/2; a sample weighs exp(-d^2 / width^2), d being the cosine
    distance to the whole picture, and the weights come from ridge regression, all as the authors'
    code for pictures does. Cells are squares where it takes superpixels.

    Args:
        group: the images.
        layer: not used.
        samples: passes.
        cell: side of a cell in pixels; None is an eighth of the shorter side.
        width: of the kernel.
        ridge: strength of the penalty, on all weights but the intercept.
        baseline: what stands in hidden cells: "mean", "zero", "blur", "noise" or a tensor.
        seed: of the samples, the same for every image.

    Returns:
        (K, g, H, W), signed; a cell's pixels sum to its weight.
    """
    if width <= 0 or ridge < 0:
        raise MethodError(f"width={width} is positive, ridge={ridge} not negative")
    label = squares(size_of(group.inputs), cell, samples, group.inputs.device)
    count = int(label.max()) + 1
    shown = torch.rand(samples, count, generator=group.generator(seed)) < 0.5
    shown[0] = True
    scores = scores_of(group, shown, label, baseline, "LIME")
    z = shown.double()
    distance = 1 - (z.sum(1) / count).sqrt()  # of 0/1 rows to the row of ones
    weight = torch.exp(-(distance**2) / width**2)
    mean = (weight @ z) / weight.sum()
    centred = z - mean
    gram = centred.T @ (weight[:, None] * centred) + ridge * torch.eye(count, dtype=torch.double)
    level = torch.einsum("n,kng->kg", weight, scores) / weight.sum()
    moments = torch.einsum("nc,n,kng->ckg", centred, weight, scores - level[:, None])
    found = torch.linalg.solve(gram, moments.flatten(1)).view_as(moments)
    return painted(found.permute(1, 2, 0), label, group.inputs)
