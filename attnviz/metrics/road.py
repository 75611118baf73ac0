"""ROAD: remove the most or least relevant pixels, impute them, and read the score."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import MetricError
from ..geometry import size_of
from ._inputs import as_images, as_maps, finite_reasons, kept, resize_maps
from ._random import image_keys, normal
from ._register import register_metric
from .forward import scoring
from .imputation import impute
from .protocol import SCORE_NAMES, Protocol
from .scores import Curve, scattered
from .substrates import pixel_ranks

_ORDERS = {"most": ("morf",), "least": ("lerf",), "combined": ("morf", "lerf")}


def _images(options: Mapping[str, Any]) -> int:
    """Return how many images are imputed for each map."""
    count = len(options.get("percentiles", (20, 40, 60, 80)))
    return count * len(_ORDERS.get(options.get("order", "most"), "?"))


@register_metric(
    "road",
    family="faithfulness",
    needs=("model",),
    higher_is_better=False,
    paper="arXiv:2202.00449",
    forwards=lambda o: 1 + _images(o),
    imputations=_images,
)
def road(
    model: Callable[[Tensor], Any],
    x: Tensor,
    maps: Any,
    target: Any = None,
    *,
    percentiles: Sequence[float] = (20, 40, 60, 80),
    order: str = "most",
    noise: float = 0.01,
    score: str = "probability",
    tolerance: float = 1e-3,
    batch_size: int | None = None,
    seed: int = 0,
) -> Curve:
    """ROAD: the score once the most relevant pixels are imputed from the rest; low is good.

    Rong, Leemann, Borisov, Kasneci & Kasneci, "A Consistent and Efficient Evaluation Strategy for
    Attribution Methods" (ICML 2022, arXiv:2202.00449). Exactly round(n p / 100) of n pixels are
    removed, ties and zeros or not.

    Args:
        model: a module or function, `model(x)` -> logits (B, classes).
        x: (B, C, H, W) the model's input.
        maps: (B, h, w) relevance, resized bilinearly to (H, W).
        target: as for `faithfulness_curves`.
        percentiles: per cent of the pixels removed.
        order: "most" relevant first (low is good), "least" relevant first (high is good), or
            "combined": half of least minus most (high is good).
        noise: standard deviation added to imputed pixels, in the input's units, drawn per image.
        score: "probability" or "logit".
        tolerance: of the imputation, see `imputation.impute`.
        batch_size: images a forward pass at most; None chooses, few on a CPU.
        seed: of the noise and of the order among ties.

    Returns:
        `Curve`: `fraction` (P,) removed, `scores` (B, P), `values` (B,) their mean. Maps with NaN
        or infinity are skipped.
    """
    if order not in _ORDERS:
        raise MetricError(f"order={order!r}, expected one of {', '.join(_ORDERS)}")
    if not len(percentiles) or not all(0 <= p <= 100 for p in percentiles):
        raise MetricError(f"percentiles={percentiles!r}, expected at least one, each of 0 to 100")
    x = as_images(x)
    maps = as_maps(maps, len(x), x.device)
    reasons = finite_reasons(maps)
    index = kept(reasons, x.device)
    rank, n = pixel_ranks(
        resize_maps(maps[index], size_of(x)), x[index], substrate="pixel", seed=seed
    )
    counts = torch.tensor([round(n * p / 100) for p in percentiles], device=x.device)
    directions = _ORDERS[order]
    per_image = len(counts) * len(directions)
    row = torch.arange(len(index), device=x.device).repeat_interleave(per_image)
    keys = image_keys(x) if noise else []

    def noises(images: Tensor) -> Tensor | None:
        if not noise:
            return None
        shape = tuple(x.shape[1:])
        return torch.stack([normal(shape, seed, keys[i], "road", x) for i in images.tolist()])

    with scoring(model, x, target, score=score, batch_size=batch_size) as scorer:

        def build(jobs: Tensor) -> Tensor:
            local, point = row[jobs], jobs % per_image
            count = counts[point % len(counts), None, None]
            least = (point >= len(counts))[:, None, None] | (order == "least")
            removed = torch.where(least, rank[local] >= n - count, rank[local] < count)
            images, place = index[local].unique_consecutive(return_inverse=True)
            drawn = noises(images)
            return impute(
                x[index[local]],
                removed,
                noise=None if drawn is None else noise * drawn[place],
                tolerance=tolerance,
            )

        found = scorer(index[row], build).view(len(index), len(directions), len(counts))
    points = found[:, 0] if len(directions) == 1 else (found[:, 1] - found[:, 0]) / 2
    protocol = Protocol.of(
        "road",
        SCORE_NAMES[score],
        *([] if order == "most" else [order]),
        f"{', '.join(f'{p:g}' for p in percentiles)} %",
        higher_is_better=order != "most",
        score=score,
        percentiles=list(percentiles),
        order=order,
        noise=noise,
        tolerance=tolerance,
        seed=seed,
    )
    full = scattered(points, index, len(x))
    return Curve(full.mean(1), protocol, tuple(reasons), fraction=counts.double() / n, scores=full)
