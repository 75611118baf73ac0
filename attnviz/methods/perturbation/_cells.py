"""Pictures of which square cells are shown or hidden: what LIME and Kernel SHAP fit a model to."""

from __future__ import annotations

import torch
from torch import Tensor

from ...errors import MethodError
from ...metrics.substrates import cells as cell_numbers
from ..altered import AlteredGroup, replacement


def squares(size: tuple[int, int], cell: int | None, samples: int, device: torch.device) -> Tensor:
    """Return the cell number of every pixel, (H, W).

    Args:
        size: (H, W).
        cell: side in pixels; None is an eighth of the shorter side.
        samples: checked to be positive.
        device: of the result.
    """
    cell = max(1, round(min(size) / 8)) if cell is None else cell
    if not 1 <= cell <= min(size) or samples < 1:
        raise MethodError(f"cell={cell} lies in 1 to {min(size)}, samples={samples} is at least 1")
    return cell_numbers(size, "patch", cell, device)


def scores_of(
    group: AlteredGroup, shown: Tensor, label: Tensor, baseline: str | Tensor, what: str
) -> Tensor:
    """Return the scores (K, n, g) of pictures with only some cells shown, (n, cells) bool."""
    behind = group.of(replacement(baseline, group.passes.inputs))
    shown = shown.to(label.device)

    def build(start: int, stop: int) -> Tensor:
        keep = shown[start:stop][:, label]  # (n, H, W)
        return torch.where(keep[:, None, None], group.inputs, behind)

    found = [scores for _, _, scores in group.each(len(shown), build, what)]
    return torch.cat(found, 1).double().cpu()


def painted(values: Tensor, label: Tensor, like: Tensor) -> Tensor:
    """Return cells' values (K, g, cells) as maps (K, g, H, W), each pixel its share of its cell."""
    area = torch.bincount(label.flatten()).cpu()
    maps = (values / area)[..., label.cpu()]
    return maps.to(like.device, torch.float64 if like.dtype == torch.float64 else torch.float32)
