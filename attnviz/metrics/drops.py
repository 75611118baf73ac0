"""Average drop, increase and gain: how the score changes when the map is laid over the image.

A map of ones leaves the image as it is, so its average drop is perfect: always read these numbers
beside the constant control.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..errors import MetricError
from ..geometry import size_of
from ._inputs import (
    as_images,
    as_maps,
    finite_reasons,
    is_flat,
    kept,
    resize_maps,
    stretched,
    with_reason,
)
from ._register import register_metric
from .baselines import baseline as make_baseline
from .forward import scoring
from .protocol import SCORE_NAMES, Protocol
from .scores import Scores, scattered


def masked_scores(
    model: Callable[[Tensor], Any],
    x: Tensor,
    maps: Any,
    target: Any = None,
    *,
    baseline: str | Tensor = "zero",
    score: str = "probability",
    batch_size: int | None = None,
    seed: int = 0,
) -> tuple[Tensor, Tensor, list[str | None], str]:
    """Return the scores of the images before and after the map is laid over them.

    Args:
        model: a module or function, `model(x)` -> logits (B, classes).
        x: (B, C, H, W) the model's input.
        maps: (B, h, w), resized and stretched to [0, 1] per image. A constant map cannot be
            stretched: one above zero keeps the whole image, one at or below zero keeps nothing.
        target: as for `faithfulness_curves`.
        baseline: what shows where the map is 0; "imputed" is not possible, as maps are soft.
        score: "probability" or "logit".
        batch_size: images a forward pass at most; None chooses, few on a CPU.
        seed: of a noise baseline.

    Returns:
        before (B,), after (B,), the reasons of skipped images, the baseline's name.
    """
    x = as_images(x)
    maps = as_maps(maps, len(x), x.device)
    reasons = finite_reasons(maps)
    index = kept(reasons, x.device)
    replacement = make_baseline(baseline, x, seed=seed)
    if replacement.values is None:
        raise MetricError("baseline='imputed' needs pixels removed or not, a soft map has neither")
    images = masked_images(x[index], maps[index], replacement.values[index])
    with scoring(model, x, target, score=score, batch_size=batch_size) as scorer:
        after = scattered(scorer(index, images.__getitem__), index, len(x))
        return scorer.original, after, reasons, replacement.name


def masked_images(x: Tensor, maps: Tensor, behind: Tensor) -> Tensor:
    """Return what finite maps (B, h, w), stretched to [0, 1], show of images (B, C, H, W).

    Args:
        x: the images.
        maps: resized to them.
        behind: (B, C, H, W) what shows where the map is 0.
    """
    soft = as_opacity(resize_maps(maps, size_of(x))).to(x.dtype)[:, None]
    return behind + (x - behind) * soft


def as_opacity(maps: Tensor) -> Tensor:
    """Return maps stretched to [0, 1] each; a constant map becomes ones if above 0, else zeros."""
    flat = is_flat(maps)[:, None, None]
    return torch.where(flat, (maps > 0).to(maps), stretched(maps))


def _drops(name: str, short: str, better: bool, value: Callable, args: tuple, options: dict):
    before, after, reasons, replaced = masked_scores(*args, **options)
    values, unfit = value(before, after)
    reasons = with_reason(reasons, unfit, "score leaves no room")
    values = values.masked_fill(unfit, float("nan"))
    score = options.get("score", "probability")
    protocol = Protocol.of(
        name,
        SCORE_NAMES[score],
        replaced,
        short=short,
        higher_is_better=better,
        score=score,
        baseline=replaced,
        seed=options.get("seed", 0),
    )
    extra = {"before": before, "after": after}
    return Scores(values, protocol, tuple(reasons), extra)


@register_metric(
    "average_drop",
    family="faithfulness",
    needs=("model",),
    higher_is_better=False,
    paper="arXiv:1710.11063",
    forwards=lambda o: 2,
)
def average_drop(model: Any, x: Tensor, maps: Any, target: Any = None, **options: Any) -> Scores:
    """Average drop: share of the score lost when only what the map shows is kept; low is good.

    max(0, before - after) / before. Chattopadhay, Sarkar, Howlader & Balasubramanian, "Grad-CAM++"
    (WACV 2018, arXiv:1710.11063). Arguments as `masked_scores`. A score that is not positive has
    no share to lose: skipped.

    Returns:
        `Scores` with `extra["before"]` and `extra["after"]`.
    """

    def value(before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
        return (before - after).clamp_min(0) / before, before <= 0

    return _drops("average_drop", "drop", False, value, (model, x, maps, target), options)


@register_metric(
    "average_increase",
    family="faithfulness",
    needs=("model",),
    higher_is_better=True,
    paper="arXiv:1710.11063",
    forwards=lambda o: 2,
)
def average_increase(
    model: Any, x: Tensor, maps: Any, target: Any = None, **options: Any
) -> Scores:
    """Average increase: share of images whose score rises when only what the map shows is kept.

    Chattopadhay et al. (WACV 2018, arXiv:1710.11063). Arguments as `masked_scores`.

    Returns:
        `Scores` of 0 and 1.
    """

    def value(before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
        return torch.where(after.isnan(), after, (after > before).to(after)), before != before

    return _drops("average_increase", "increase", True, value, (model, x, maps, target), options)


@register_metric(
    "average_gain",
    family="faithfulness",
    needs=("model",),
    higher_is_better=True,
    paper="arXiv:2301.07002",
    forwards=lambda o: 2,
)
def average_gain(model: Any, x: Tensor, maps: Any, target: Any = None, **options: Any) -> Scores:
    """Average gain: share of the missing probability won when only what the map shows is kept.

    max(0, after - before) / (1 - before). Zhang, Torres, Sicre, Avrithis & Ayache, "Opti-CAM"
    (CVIU 2024, arXiv:2301.07002). Arguments as `masked_scores`; needs `score="probability"`. A
    probability of 1 can win nothing: skipped.
    """
    if options.get("score", "probability") != "probability":
        raise MetricError("average gain is a share of probability; use score='probability'")

    def value(before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
        return (after - before).clamp_min(0) / (1 - before), before >= 1

    return _drops("average_gain", "gain", True, value, (model, x, maps, target), options)
