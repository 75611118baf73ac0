"""Erasing at test time: what does a trained model look at once the first region is gone?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import DataError
from ..geometry import size_of
from ..hooks import preserved, unwrap
from ..models.outputs import class_logits, logits_of, probabilities
from ..targets import Target, resolve
from .cascade import top_region
from .fills import erase


@dataclass(frozen=True, eq=False)
class Mined:
    """The evidence of one image, region by region.

    Attributes:
        maps: (S, h, w) raw map of each step, before its region is erased.
        regions: (S, H, W) bool at the model's input, disjoint.
        scores: (S + 1,) the explained score: of the image, and after each step.
        probabilities: (S + 1,) the softmax of the class; None for other targets.
        ranks: (S + 1,) the place of the class among all, 1 for the predicted one; None likewise.
        images: (S + 1, C, H, W) the model's inputs, the first one untouched.
        target: what is explained, as a JSON value; label: as text.
        method, layer, fill: how.
        stopped: "steps", "evidence" (the map is nowhere positive) or "area" (too little is left).
    """

    maps: Tensor
    regions: Tensor
    scores: Tensor
    probabilities: Tensor | None
    ranks: tuple[int, ...] | None
    images: Tensor
    target: Any
    label: str
    method: str
    layer: str
    fill: str
    stopped: str

    @property
    def union(self) -> Tensor:
        """(H, W) bool: everything that was erased."""
        return self.regions.any(0)


def mine(
    model: nn.Module,
    image: Tensor,
    *,
    target: Any = None,
    steps: int = 4,
    threshold: float = 0.5,
    fill: str = "blur",
    method: str = "gradcam",
    layer: str | nn.Module | None = None,
    labels: Any = None,
    most: float = 0.9,
    seed: int = 0,
) -> Mined:
    """Erase the region of a map, look again, and so on; the model is not trained or changed.

    The target is fixed by the first look: with None it stays the class predicted for the whole
    image. Erased positions never count twice. The same idea as the cascade of Wei et al. 2017
    (arXiv:1703.08448), on a model as it is.

    Args:
        model: a trained model.
        image: one preprocessed image, (C, H, W) or (1, C, H, W).
        target: as in `explain`, one.
        steps: at most so many.
        threshold: share of the map's maximum from which on a position is erased.
        fill: see `FILLS`; "blur" brings in the surroundings.
        method, layer, labels: as in `explain`.
        most: stop when so much of the image is erased.
        seed: for fill="noise".

    Raises:
        DataError: more than one image, no step.
    """
    from ..explaining import explain

    if image.ndim == 3:
        image = image[None]
    if image.ndim != 4 or len(image) != 1:
        raise DataError(f"mine takes one image (C, H, W), got {tuple(image.shape)}")
    if steps < 1:
        raise DataError(f"steps is at least 1, got {steps}")
    module = unwrap(model)
    parameter = next(module.parameters(), None)
    if parameter is not None:
        image = image.to(parameter.device, parameter.dtype)
    generator = torch.Generator().manual_seed(seed)
    fixed = _fix(module, image, target, labels)
    images, maps, regions = [image[0]], [], []
    erased = torch.zeros(image.shape[-2:], dtype=torch.bool)
    looks = [_look(module, image, fixed)]
    stopped = "steps"
    for _ in range(steps):
        found = explain(
            module, images[-1][None], target=fixed, method=method, layer=layer, labels=labels
        )
        values = found.values[0].cpu()
        # what is gone cannot be found again, however high the map stands over the hole
        left = _without(values, erased)
        region = top_region(left[None], size_of(erased), threshold)[0] & ~erased
        if not bool(region.any()):
            stopped = "evidence"
            break
        maps.append(values)
        regions.append(region)
        erased = erased | region
        images.append(erase(image, erased[None].to(image), fill=fill, generator=generator)[0])
        looks.append(_look(module, images[-1][None], fixed))
        if float(erased.float().mean()) >= most:
            stopped = "area"
            break
    known = fixed.index is not None
    shape = tuple(found.values.shape[1:])
    return Mined(
        maps=torch.stack(maps) if maps else torch.zeros(0, *shape),
        regions=torch.stack(regions) if regions else torch.zeros(0, *erased.shape).bool(),
        scores=torch.tensor([look[0] for look in looks]),
        probabilities=torch.tensor([look[1] for look in looks]) if known else None,
        ranks=tuple(look[2] for look in looks) if known else None,
        images=torch.stack(images).cpu(),
        target=fixed.describe(),
        label=fixed.label,
        method=found.method,
        layer=found.layer,
        fill=fill,
        stopped=stopped,
    )


def _run(module: nn.Module, image: Tensor) -> Any:
    with preserved(module), torch.no_grad():
        return module(image)


def _look(module: nn.Module, image: Tensor, target: Target) -> tuple[float, float, int]:
    """Return score, probability and rank; the last two mean something for classes only."""
    output = _run(module, image)
    score = float(target.score(output)[0])
    if target.index is None:
        return score, float("nan"), 0
    logits = logits_of(output).float()
    found = probabilities(logits)
    logits = class_logits(logits)[0]
    rank = int((logits > logits[target.index]).sum()) + 1
    return score, float("nan") if found is None else float(found[0, target.index]), rank


def _fix(module: nn.Module, image: Tensor, target: Any, labels: Any) -> Target:
    (column,) = resolve(target, _run(module, image), batch=1, labels=labels)
    return column.targets[0]


def _without(values: Tensor, erased: Tensor) -> Tensor:
    """The map with positions that are mostly erased set to nothing."""
    covered = F.adaptive_avg_pool2d(erased[None, None].float(), size_of(values))
    return torch.where(covered[0, 0] > 0.5, torch.zeros_like(values), values)
