"""RISE."""

from __future__ import annotations

import torch
from torch import Tensor

from ...errors import MethodError
from ...geometry import size_of
from ..altered import AlteredGroup, replacement
from ._masks import upsampled
from ._register import register_perturbation


@register_perturbation("rise", paper="arXiv:1806.07421", units="score")
def rise(
    group: AlteredGroup,
    layer: None,
    *,
    masks: int = 1000,
    cells: int = 7,
    keep: float = 0.5,
    baseline: str | Tensor = "zero",
    seed: int = 0,
) -> Tensor:
    """RISE: the mean score of randomly masked pictures, by what they show (Petsiuk et al. 2018).

    Masks are grids of cells x cells that are kept with probability `keep`, upsampled bilinearly
    by one cell more than the picture and shifted at random. A pixel's value is the mean score
    with the mask as weight, E[S | pixel shown], less the mean score of all passes.

    Differs from the paper in this last term, one number for the whole map, and in dividing by the
    sum of the masks at each pixel where the paper divides by its expectation: both take away noise
    and leave the expectation. The paper takes 4,000 to 8,000 masks and the probability as score.

    Args:
        group: the images.
        layer: not used.
        masks: number of passes.
        cells: side of the grid.
        keep: probability that a cell is shown, in (0, 1).
        baseline: what stands in the hidden places: "zero", "mean", "blur", "noise" or a tensor.
        seed: of the masks, which are the same for every image.

    Returns:
        (K, g, H, W).
    """
    if masks < 1 or cells < 1 or not 0 < keep < 1:
        raise MethodError(f"masks={masks} and cells={cells} are at least 1, keep={keep} in (0, 1)")
    size = size_of(group.inputs)
    behind = group.of(replacement(baseline, group.passes.inputs))
    generator = group.generator(seed)
    # all numbers at once, a few bytes a mask, so that the size of a pass does not matter
    grids = torch.rand(masks, cells + 1, cells + 1, generator=generator) < keep
    shifts = torch.rand(masks, 2, generator=generator)
    made: list[Tensor] = []

    def build(start: int, stop: int) -> Tensor:
        shown = shown_parts(grids[start:stop], shifts[start:stop], cells, size).to(group.inputs)
        made[:] = [shown]
        return behind + shown[:, None, None] * (group.inputs - behind)

    total = group.scores.new_zeros(*group.scores.shape, *size, dtype=torch.float64)
    weight = total.new_zeros(size)
    scores_sum = group.scores.new_zeros(group.scores.shape, dtype=torch.float64)
    for _, _, scores in group.each(masks, build, "RISE"):
        shown = made[0].double()
        total += torch.einsum("kng,nhw->kghw", scores.double(), shown)
        weight += shown.sum(0)
        scores_sum += scores.double().sum(1)
    mean = scores_sum[..., None, None] / masks
    values = torch.where(weight > 0, total / weight.clamp_min(1e-12) - mean, 0.0)
    return values if group.scores.dtype == torch.float64 else values.float()


def shown_parts(grids: Tensor, shifts: Tensor, cells: int, size: tuple[int, int]) -> Tensor:
    """Return RISE's masks (n, H, W) in [0, 1].

    Args:
        grids: (n, cells + 1, cells + 1) bool, which cells are shown.
        shifts: (n, 2) in [0, 1), the shift as a share of a cell.
        cells: side of the grid.
        size: (H, W) of the picture.
    """
    height, width = size
    tall, wide = -(-height // cells), -(-width // cells)
    full = upsampled(grids[:, None].float(), ((cells + 1) * tall, (cells + 1) * wide))[:, 0]
    down = (shifts[:, 0] * tall).long().tolist()
    right = (shifts[:, 1] * wide).long().tolist()
    parts = [
        mask[y : y + height, x : x + width] for mask, y, x in zip(full, down, right, strict=True)
    ]
    return torch.stack(parts)
