"""The adversarial-erasing cascade: train, erase what is seen, train again, unite the regions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import DataError
from ..geometry import size_of
from ..models.outputs import logits_of, predicted
from .fills import erase


@dataclass(frozen=True, eq=False)
class Cascade:
    """What a cascade found.

    Attributes:
        regions: (R, B, H, W) bool, what was found in each round, on the images.
        union: (B, H, W) bool.
        accuracy: of each round's model on the images that it was trained on, R numbers.
        models: R models.
        stopped: why it ended: "rounds", "accuracy" (the class is gone) or "area" (nothing new).
    """

    regions: Tensor
    union: Tensor
    accuracy: tuple[float, ...]
    models: tuple[nn.Module, ...]
    stopped: str


def cascade(
    train: Callable[[Tensor, Tensor], nn.Module],
    images: Tensor,
    labels: Tensor,
    *,
    rounds: int = 3,
    threshold: float = 0.8,
    fill: str = "mean",
    method: str = "gradcam",
    layer: str | None = None,
    stop_accuracy: float = 0.8,
    stop_area: float = 0.01,
    batch_size: int = 32,
    generator: torch.Generator | None = None,
) -> Cascade:
    """Erase what a classifier looks at, train another, and unite what all saw (Wei et al. 2017).

    arXiv:1703.08448. A round whose model can no longer tell the classes has found nothing:
    its regions do not count. Differs from the paper in the stopping rule, which the paper sets by
    hand, and in that the threshold is a share of each map's maximum.

    Args:
        train: images, labels -> a trained model; called once a round, with the erased images.
        images: (B, C, H, W), preprocessed. Not changed.
        labels: (B,).
        rounds: at most so many.
        threshold: share of the map's maximum from which on a position is erased.
        fill: see `FILLS`.
        method, layer: the map.
        stop_accuracy: stop when a round's model is below this on its own training images.
        stop_area: stop when a round adds less than this share of the images' area.
        batch_size: for the maps.
        generator: for fill="noise".
    """
    from ..explaining import explain

    if len(images) != len(labels) or not len(images):
        raise DataError(f"{len(images)} images and {len(labels)} labels; give one label an image")
    size = size_of(images)
    union = torch.zeros(len(images), *size, dtype=torch.bool)
    regions, accuracies, models = [], [], []
    current, stopped = images, "rounds"
    for _ in range(rounds):
        model = train(current, labels)
        accuracy = _accuracy(model, current, labels, batch_size)
        if accuracy < stop_accuracy:
            stopped = "accuracy"
            break
        maps = explain(
            model, current, target=labels, method=method, layer=layer, batch_size=batch_size
        )
        region = top_region(maps.values, size, threshold) & ~union
        regions.append(region)
        accuracies.append(accuracy)
        models.append(model)
        union = union | region
        if float(region.float().mean()) < stop_area:
            stopped = "area"
            break
        current = erase(images, union.to(images), fill=fill, generator=generator)
    stacked = torch.stack(regions) if regions else torch.zeros(0, len(images), *size).bool()
    return Cascade(stacked, union, tuple(accuracies), tuple(models), stopped)


def top_region(maps: Tensor, size: tuple[int, int], threshold: float) -> Tensor:
    """Return where maps (B, h, w), enlarged to `size`, reach a share of their maximum; bool.

    A map that is nowhere positive marks nothing.
    """
    values = F.interpolate(maps[:, None].float(), size, mode="bilinear", align_corners=False)[:, 0]
    most = values.amax((-2, -1), keepdim=True)
    return (values >= threshold * most) & (most > 0)


def _accuracy(model: nn.Module, images: Tensor, labels: Tensor, batch_size: int) -> float:
    mode = {m: m.training for m in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            parts = zip(images.split(batch_size), labels.split(batch_size), strict=True)
            hits = [(predicted(logits_of(model(x))) == y).float() for x, y in parts]
    finally:
        for module, training in mode.items():
            module.training = training
    return float(torch.cat(hits).mean())
