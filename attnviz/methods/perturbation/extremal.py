"""Extremal perturbations."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import MethodError
from ...metrics.baselines import blur
from ..altered import AlteredGroup
from ..progress import counting
from ._register import register_perturbation

#: standard deviations of the blurred pictures, as shares of the shorter side
_LEVELS = (0.0, 0.01, 0.02, 0.04, 0.08)
#: temperature of the smooth maximum
_TEMPERATURE = 0.05


@register_perturbation("extremal", paper="arXiv:1910.08485", units="share of areas",
                       aliases=("extremal_perturbation",))  # fmt: skip
def extremal(
    group: AlteredGroup,
    layer: None,
    *,
    areas: Sequence[float] = (0.05, 0.1, 0.2, 0.4),
    steps: int = 150,
    cell: int | None = None,
    rate: float = 0.1,
) -> Tensor:
    """Extremal perturbation: the smooth mask of an area that keeps the score highest (Fong 2019).

    For each area a, max over m of S(x shown through m) - lambda |sort(m) - r_a|^2, where r_a is
    one on the share a of the pixels and zero elsewhere, so that the mask tends to that area and to
    zero and one; what is hidden is blurred. Masks are a grid of values spread by a smooth maximum
    over a kernel, so they have no fine texture. The map is the mean of the masks over the areas:
    what every area keeps has value 1. All areas and classes are optimised in one batch.

    Differs from the paper's code in the optimiser (Adam with a rising lambda, 150 steps and not
    800 of gradient descent), in the score being scaled by its span between the picture and its
    blurred copy, and in leaving out the random shifts.

    Args:
        group: the images.
        layer: not used.
        areas: shares of the picture, each in (0, 1).
        steps: of the optimiser; each is a forward and backward pass of every mask.
        cell: pixels between the grid's values; None is a 32nd of the shorter side.
        rate: of the optimiser.

    Returns:
        (K, g, H, W) in [0, 1].
    """
    if not areas or not all(0 < a < 1 for a in areas) or steps < 1:
        raise MethodError(f"areas={tuple(areas)} are shares in (0, 1), steps={steps} at least 1")
    height, width = group.inputs.shape[-2:]
    cell = max(1, round(min(height, width) / 32)) if cell is None else cell
    smooth = SmoothMask((height, width), cell, group.inputs)
    kept = torch.tensor([round(a * height * width) for a in areas], device=group.inputs.device)
    reference = (
        torch.arange(height * width, device=kept.device)[None] >= height * width - kept[:, None]
    ).to(group.inputs.dtype)
    pyramid = blurred(group.inputs)
    hidden = group.score(group.passes.run(pyramid[-1]), 1)[:, 0]  # (K, g)
    span = (group.scores - hidden).abs().clamp_min(1e-3)
    number, images = len(group.passes.columns), len(group.images)
    maps = torch.stack(
        [
            _optimised(group, smooth, pyramid, reference, span[k], k, steps, rate)
            for k in range(number)
        ]
    )
    return maps.view(number, images, height, width).to(
        torch.promote_types(torch.float32, group.inputs.dtype)
    )


def _optimised(
    group: AlteredGroup,
    smooth: SmoothMask,
    pyramid: list[Tensor],
    reference: Tensor,
    span: Tensor,
    k: int,
    steps: int,
    rate: float,
) -> Tensor:
    """Return the mean mask (g, H, W) over the areas, for class k."""
    count, images = len(reference), len(group.images)
    grid = torch.full((count, images, *smooth.grid), 0.5, device=span.device, dtype=torch.float32)
    first, second = torch.zeros_like(grid), torch.zeros_like(grid)
    column = group.passes.columns[k]
    index = list(group.images)
    with counting("extremal perturbation", steps * count * images) as done:
        for step in range(steps):
            # lambda grows to 15 times its start: first where, then how sharp
            strength = 2.0 * 15 ** (step / max(1, steps - 1))
            gradient = torch.empty_like(grid)
            start = 0
            while start < count:
                stop = min(count, start + max(1, group.passes.graph_rows() // images))
                part = grid[start:stop].clone().requires_grad_()
                try:
                    with torch.enable_grad():
                        masks = smooth(part.flatten(0, 1))
                        shown = through(pyramid, masks, stop - start)
                        output = group.passes.request.model(shown)
                        scores = column.copies(output, index * (stop - start))
                        gain = (scores.view(stop - start, images) / span).sum()
                        ordered = masks.flatten(1).sort(1).values.view(stop - start, images, -1)
                        area = (ordered - reference[start:stop, None]).square().mean(-1).sum()
                        (gradient[start:stop],) = torch.autograd.grad(strength * area - gain, part)
                except RuntimeError as error:
                    group.passes.halve(error)
                    continue
                done((stop - start) * images)
                start = stop
            first.mul_(0.9).add_(gradient, alpha=0.1)
            second.mul_(0.99).addcmul_(gradient, gradient, value=0.01)
            move = (first / (1 - 0.9 ** (step + 1))) / (
                (second / (1 - 0.99 ** (step + 1))).sqrt() + 1e-8
            )
            grid.sub_(move, alpha=rate).clamp_(0, 1)
    with torch.no_grad():
        masks = smooth(grid.flatten(0, 1))
    return masks.view(count, images, *masks.shape[-2:]).mean(0)


class SmoothMask:
    """Masks (n, H, W) from grids (n, h, w): a smooth maximum over shifted kernels.

    m(u) = smax over grid points v of k(u - v) g(v), k falling from 1 to 0 like a Gaussian with a
    flat top; smax(z) = sum z e^(z/T) / sum e^(z/T).
    """

    def __init__(self, size: tuple[int, int], cell: int, like: Tensor) -> None:
        self.size = size
        self.cell = cell
        self.reach = 3
        self.grid = tuple(math.ceil(s / cell) + 1 for s in size)
        taps = []
        position = [torch.arange(s, dtype=torch.float32) for s in size]
        nearest = [(p / cell).round() for p in position]
        sigma = 1.2 * cell
        for dy in range(-self.reach, self.reach + 1):
            for dx in range(-self.reach, self.reach + 1):
                y = position[0] - (nearest[0] + dy) * cell
                x = position[1] - (nearest[1] + dx) * cell
                distance = (y[:, None].square() + x[None].square()).sqrt()
                taps.append(torch.exp(-0.5 * ((distance - cell).clamp_min(0) / sigma) ** 2))
        self.kernel = torch.stack(taps).to(like.device)  # (taps, H, W)
        self.index = [n.long().to(like.device) for n in nearest]

    def __call__(self, grids: Tensor) -> Tensor:
        """Return masks (n, H, W) in [0, 1] of grids (n, h, w) in [0, 1]."""
        reach = self.reach
        padded = F.pad(grids[:, None], (reach,) * 4, mode="replicate")[:, 0]
        top = torch.full((len(grids), *self.size), 0.0, device=grids.device)
        below = torch.zeros_like(top)
        tap = 0
        for dy in range(2 * reach + 1):
            for dx in range(2 * reach + 1):
                values = padded[:, self.index[0] + dy][:, :, self.index[1] + dx]
                z = values * self.kernel[tap]
                weight = (z / _TEMPERATURE).exp()
                top = top + z * weight
                below = below + weight
                tap += 1
        return top / below


def blurred(images: Tensor) -> list[Tensor]:
    """Return the picture and ever more blurred copies of it, each (g, C, H, W)."""
    side = min(images.shape[-2:])
    return [images if not level else blur(images, level * side) for level in _LEVELS]


def through(pyramid: list[Tensor], masks: Tensor, copies: int) -> Tensor:
    """Return pictures as seen through masks (n g, H, W): 1 is sharp, 0 the most blurred."""
    levels = len(pyramid) - 1
    depth = (1 - masks)[:, None] * levels
    seen = torch.zeros(1, device=masks.device)
    for number, level in enumerate(pyramid):
        share = (1 - (depth - number).abs()).clamp_min(0).to(level.dtype)
        seen = seen + share * level.repeat(copies, 1, 1, 1)
    return seen
