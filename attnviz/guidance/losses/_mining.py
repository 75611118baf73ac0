"""Erased passes: the soft mask of a map, the second forward, and what its answer costs."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ...erasing.fills import erase
from ...errors import GuidanceError
from ...hooks import unwrap
from ...targets import logits_of
from ..batchnorm import batchnorm_frozen
from ..class_maps import ClassMap
from ..normalising import normalised

SCORES = ("margin", "probability", "sigmoid", "logit", "uniform")


def soft_mask(
    maps: Tensor, size: tuple[int, int], *, steepness: float = 10.0, threshold: float = 0.5
) -> Tensor:
    """Return T = sigmoid(steepness (A - threshold)) at image size, (B, H, W) in (0, 1).

    A is the map normalised by its own detached maximum. Steepness 10 leaks .007 outside and lets
    a band of .29 of the range live; 100 has almost no gradient: anneal it from low to high.
    """
    mask = torch.sigmoid(steepness * (normalised(maps) - threshold))
    return F.interpolate(mask[:, None], size, mode="bilinear", align_corners=False)[:, 0]


def erased_logits(
    seen: ClassMap,
    masks: Tensor,
    rows: Tensor | None = None,
    *,
    fill: str = "blur",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return the model's logits on the batch with `masks` erased, (rows, classes).

    BatchNorm runs on its statistics and leaves them alone.
    """
    images = seen.images.detach()
    images = images if rows is None else images[rows]
    erased = erase(images, masks.to(images.dtype), fill=fill, generator=generator)
    with batchnorm_frozen(seen.model):
        logits = logits_of(unwrap(seen.model)(erased))
    return logits if logits.dtype == torch.float64 else logits.float()


def remaining(logits: Tensor, classes: Tensor, score: str) -> Tensor:
    """Return what is left of each image's class after erasing, (B,).

    Args:
        logits: (B, classes) of the erased images.
        classes: (B,) indices.
        score: "margin" is -log(1 - softmax p) = softplus(logit - logsumexp of the others): bounded
            below and steep where the class is still certain; "probability" is the softmax p, flat
            there; "sigmoid" is each class's own p (multi-label); "logit" is the paper's raw
            score, which can be lowered without end; "uniform" is the cross-entropy of an even
            guess with the softmax, less its minimum: nothing is told, for or against any class.
    """
    if score == "uniform":
        return -logits.log_softmax(1).mean(1) - math.log(logits.shape[1])
    own = logits.gather(1, classes[:, None])[:, 0]
    if score == "logit":
        return own
    if score == "sigmoid":
        return own.sigmoid()
    if score == "probability":
        return logits.softmax(1).gather(1, classes[:, None])[:, 0]
    if score == "margin":
        others = logits.scatter(1, classes[:, None], float("-inf")).logsumexp(1)
        return F.softplus(own - others)
    raise GuidanceError(f"score {score!r} is not one of {', '.join(map(repr, SCORES))}")
