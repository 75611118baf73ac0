"""Infidelity: how well a map predicts what a perturbation does to the score."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..errors import MetricError
from ..geometry import size_of
from ._inputs import _as_tensor, as_images, as_maps, finite_reasons, kept, resize_maps
from ._random import generator, image_keys
from ._register import register_metric
from .baselines import baseline as make_baseline
from .forward import scoring
from .protocol import SCORE_NAMES, Protocol
from .scores import Scores, scattered

PERTURBATIONS = ("squares", "noise")


@register_metric(
    "infidelity",
    family="faithfulness",
    needs=("model",),
    higher_is_better=False,
    paper="arXiv:1901.09392",
    forwards=lambda o: 1 + o.get("samples", 50),
)
def infidelity(
    model: Callable[[Tensor], Any],
    x: Tensor,
    maps: Any,
    target: Any = None,
    *,
    perturbation: str | Tensor = "squares",
    contributions: bool | None = None,
    samples: int = 50,
    noise: float = 0.2,
    baseline: str | Tensor = "mean",
    normalize: bool = True,
    score: str = "logit",
    batch_size: int | None = None,
    seed: int = 0,
) -> Scores:
    """Infidelity: mean squared error of a map as a prediction of score changes; low is good.

    The mean over perturbations I of (beta I . map - (f(x) - f(x - I)))^2. Yeh, Hsieh, Suggala,
    Inouye & Ravikumar, "On the (In)fidelity and Sensitivity of Explanations" (NeurIPS 2019,
    arXiv:1901.09392).

    Args:
        model: a module or function, `model(x)` -> logits (B, classes).
        x: (B, C, H, W) the model's input.
        maps: (B, h, w), resized, one value for all channels of a pixel; or (B, C, H, W).
        target: as for `faithfulness_curves`.
        perturbation: "squares" replaces a random square by the baseline; "noise" subtracts normal
            noise; or perturbations of your own, (B, samples, C, H, W).
        contributions: True for maps that state a pixel's share of the score (CAMs, gradient x
            input): a square is then predicted to take away the sum of the map inside it. False for
            gradients, which are multiplied by the perturbation. None is True for squares.
        samples: perturbations per image.
        noise: standard deviation for "noise", in the input's units.
        baseline: what a square is replaced by.
        normalize: scale each map by the factor beta that fits best, so that the result does not
            depend on the map's units.
        score: "probability" or "logit".
        batch_size: images a forward pass at most; None chooses, few on a CPU.
        seed: of the perturbations, which are drawn per image.

    Returns:
        `Scores` in squared units of the score.
    """
    x = as_images(x)
    own = perturbation if isinstance(perturbation, Tensor) else None
    if own is None and perturbation not in PERTURBATIONS:
        raise MetricError(
            f"perturbation={perturbation!r}, expected one of {', '.join(PERTURBATIONS)} or a tensor"
        )
    if own is not None and (own.ndim != 5 or own.shape[2:] != x.shape[1:] or len(own) != len(x)):
        raise MetricError(
            f"perturbations have shape {tuple(own.shape)}, expected (B, samples, C, H, W) for "
            f"images {tuple(x.shape)}"
        )
    samples = samples if own is None else own.shape[1]
    if samples < 1:
        raise MetricError(f"samples={samples}, expected at least 1")
    kind = perturbation if isinstance(perturbation, str) else "own"
    contributions = kind == "squares" if contributions is None else contributions
    if contributions and kind != "squares":
        raise MetricError("contributions=True is defined for perturbation='squares' only")
    values = _attribution(maps, x)
    reasons = finite_reasons(values)
    index = kept(reasons, x.device)
    replacement = make_baseline(baseline, x, seed=seed)
    behind = replacement.values
    if kind == "squares" and behind is None:
        raise MetricError("infidelity has no baseline='imputed'; use zero, mean, blur or noise")
    keys = image_keys(x)
    row = torch.arange(len(index), device=x.device).repeat_interleave(samples)
    predicted = torch.zeros(len(row), dtype=values.dtype, device=x.device)

    def one(image: int, sample: int) -> tuple[Tensor, Tensor]:
        """Return what is subtracted from an image, and what the map says of it."""
        if own is not None:
            change = own[image, sample].to(x)
        elif kind == "noise":
            draw = torch.randn(x.shape[1:], generator=generator(seed, keys[image], f"I{sample}"))
            change = noise * draw.to(x)
        else:
            inside = _square(size_of(x), generator(seed, keys[image], f"I{sample}")).to(x.device)
            assert behind is not None  # seen to above
            change = (x[image] - behind[image]) * inside
            if contributions:
                return change, (values[image] * inside).sum()
        return change, (values[image] * change).sum()

    with scoring(model, x, target, score=score, batch_size=batch_size) as scorer:

        def build(jobs: Tensor) -> Tensor:
            images = []
            for job in jobs.tolist():
                image = int(index[job // samples])
                change, predicted[job] = one(image, job % samples)
                images.append(x[image] - change)
            return torch.stack(images)

        after = scorer(index[row], build)
        actual = (scorer.original[index[row]] - after).view(-1, samples)
    predicted = predicted.view(-1, samples).to(actual.dtype)
    if normalize:
        square = (predicted * predicted).sum(1, keepdim=True)
        best = (predicted * actual).sum(1, keepdim=True) / torch.where(square > 0, square, 1.0)
        predicted = predicted * best
    error = ((predicted - actual) ** 2).mean(1)
    protocol = Protocol.of(
        "infidelity",
        SCORE_NAMES[score],
        kind,
        f"{samples} samples",
        *(["normalised"] if normalize else []),
        short="infd",
        higher_is_better=False,
        score=score,
        perturbation=kind if own is None else f"own {image_keys(own[None].float())[0]:x}",
        contributions=contributions,
        samples=samples,
        noise=noise if kind == "noise" else "unused",
        baseline=replacement.name if kind == "squares" else "unused",
        normalize=normalize,
        seed=seed,
    )
    return Scores(scattered(error, index, len(x)), protocol, tuple(reasons))


def _attribution(maps: Any, x: Tensor) -> Tensor:
    """Return a map as (B, 1, H, W), or an attribution (B, C, H, W) as it is."""
    tensor = _as_tensor(maps, "maps").to(x.device)
    if tensor.shape == x.shape and x.shape[1] > 1:
        return tensor if tensor.dtype == torch.float64 else tensor.float()
    return resize_maps(as_maps(tensor, len(x)), size_of(x))[:, None]


def _square(size: tuple[int, int], draw: torch.Generator) -> Tensor:
    """Return a random square (H, W) of 0 and 1, its side a tenth to half of the shorter side."""
    height, width = size
    short = min(size)
    low, high = max(1, short // 10), max(1, short // 2)
    side = int(torch.randint(low, high + 1, (), generator=draw))
    top = int(torch.randint(0, height - side + 1, (), generator=draw))
    left = int(torch.randint(0, width - side + 1, (), generator=draw))
    inside = torch.zeros(height, width)
    inside[top : top + side, left : left + side] = 1
    return inside
