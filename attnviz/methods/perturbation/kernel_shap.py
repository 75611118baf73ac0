"""Kernel SHAP."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from ...geometry import size_of
from ..altered import AlteredGroup
from ._cells import painted, scores_of, squares
from ._register import register_perturbation


@register_perturbation("kernel_shap", paper="arXiv:1705.07874", units="score / pixel")
def kernel_shap(
    group: AlteredGroup,
    layer: None,
    *,
    samples: int = 500,
    cell: int | None = None,
    baseline: str | Tensor = "mean",
    seed: int = 0,
) -> Tensor:
    """Kernel SHAP: Shapley values of square cells by regression (Lundberg & Lee 2017).

    Coalitions are drawn by the Shapley kernel's weight of their size, each with its complement,
    and the values that fit their scores best are those that sum to S(x) - S(all hidden), exactly.
    With few cells (2^cells - 2 <= samples) every coalition is run and the values are exact.

    Args:
        group: the images.
        layer: not used.
        samples: passes, beside two.
        cell: side of a cell in pixels; None is an eighth of the shorter side.
        baseline: what stands in hidden cells: "mean", "zero", "blur", "noise" or a tensor.
        seed: of the coalitions, the same for every image.

    Returns:
        (K, g, H, W), signed; a cell's pixels sum to its value.
    """
    label = squares(size_of(group.inputs), cell, samples, group.inputs.device)
    count = int(label.max()) + 1
    shown, weight = coalitions(count, samples, group.generator(seed))
    ends = torch.tensor([[False] * count, [True] * count])
    scores = scores_of(group, torch.cat([ends, shown]), label, baseline, "Kernel SHAP")
    empty, full, scores = scores[:, 0], scores[:, 1], scores[:, 2:]
    if count == 1:
        return painted((full - empty)[..., None], label, group.inputs)
    # the last value is what the others leave of the whole
    z = shown.double()
    design = z[:, :-1] - z[:, -1:]
    wanted = scores - empty[:, None] - z[:, -1][None, :, None] * (full - empty)[:, None]
    root = weight.sqrt()[:, None]
    right = root * wanted.permute(1, 0, 2).flatten(1)
    found = torch.linalg.lstsq(root * design, right, driver="gelsd").solution
    found = found.view(count - 1, *full.shape)
    found = torch.cat([found, (full - empty - found.sum(0))[None]])
    return painted(found.permute(1, 2, 0), label, group.inputs)


def coalitions(count: int, samples: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return coalitions (n, count) bool of `count` players and their weights (n,).

    Neither the empty nor the full one is among them.
    """
    if count < 2:
        return torch.zeros(0, count, dtype=torch.bool), torch.zeros(0, dtype=torch.double)
    sizes = torch.arange(1, count, dtype=torch.double)
    kernel = (count - 1) / (sizes * (count - sizes))  # of all coalitions of a size together
    if count < 30 and 2**count - 2 <= samples:
        rows = list(itertools.product([False, True], repeat=count))[1:-1]
        shown = torch.tensor(rows)
        size = shown.sum(1)
        number = torch.tensor([float(torch.tensor(rows).sum(1).eq(s).sum()) for s in size.unique()])
        return shown, (kernel / number)[size - 1].double()
    drawn = torch.multinomial(kernel, -(-samples // 2), replacement=True, generator=generator) + 1
    order = torch.rand(len(drawn), count, generator=generator).argsort(1).argsort(1)
    half = order < drawn[:, None]
    shown = torch.cat([half, ~half])
    return shown, torch.ones(len(shown), dtype=torch.double)
