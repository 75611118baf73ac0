"""IROF: remove superpixels, the most relevant first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..errors import MetricError
from ..geometry import size_of
from ._inputs import as_images, as_maps, finite_reasons, kept, resize_maps
from ._register import register_metric
from .baselines import baseline as make_baseline
from .forward import scoring
from .protocol import Protocol
from .scores import Scores, scattered
from .segments import superpixels
from .substrates import cell_values, ranks


@register_metric(
    "irof",
    family="faithfulness",
    needs=("model",),
    higher_is_better=True,
    paper="arXiv:2003.08747",
    forwards=lambda o: 1 + o.get("segments", 64),
)
def irof(
    model: Callable[[Tensor], Any],
    x: Tensor,
    maps: Any,
    target: Any = None,
    *,
    segments: int = 64,
    baseline: str | Tensor = "mean",
    batch_size: int | None = None,
    seed: int = 0,
) -> Scores:
    """IROF: area over the curve of the probability while superpixels are removed; high is good.

    Rieger & Hansen, "IROF: a low resource evaluation metric for explanation methods" (2020,
    arXiv:2003.08747). Superpixels are ranked by their mean relevance, replaced one by one, and the
    probability is divided by the original one.

    Args:
        model: a module or function, `model(x)` -> logits (B, classes).
        x: (B, C, H, W) the model's input, with any number of channels.
        maps: (B, h, w) relevance, resized to (H, W).
        target: as for `faithfulness_curves`.
        segments: superpixels wished for; one forward pass each.
        baseline: what replaces a superpixel (the paper: the image's mean).
        batch_size: images a forward pass at most; None chooses, few on a CPU.
        seed: of the order among equally relevant superpixels.

    Returns:
        `Scores`, at most 1; `extra["segments"]` (B,) how many the image has. Maps with NaN are
        skipped.
    """
    if segments < 1:
        raise MetricError(f"segments={segments}, expected at least 1")
    x = as_images(x)
    size = size_of(x)
    maps = as_maps(maps, len(x), x.device)
    reasons = finite_reasons(maps)
    index = kept(reasons, x.device)
    values = resize_maps(maps[index], size)
    parts = superpixels(x[index], segments)
    rank, counts = [], []
    for row, label, image in zip(values, parts, x[index], strict=True):
        order = ranks(cell_values(row[None], label), image[None], seed)[0]
        rank.append(order[label])
        counts.append(len(order))
    replacement = make_baseline(baseline, x, seed=seed)
    count = torch.tensor(counts, dtype=torch.long, device=x.device)
    row = torch.arange(len(index), device=x.device).repeat_interleave(count)
    first = count.cumsum(0) - count
    with scoring(model, x, target, score="probability", batch_size=batch_size) as scorer:

        def build(jobs: Tensor) -> Tensor:
            local = row[jobs]
            removed = jobs - first[local] + 1
            order = torch.stack([rank[i] for i in local.tolist()])
            return replacement.apply(x, index[local], order >= removed[:, None, None])

        after = scorer(index[row], build)
        original = scorer.original[index]
    areas = original.new_zeros(len(index))
    for number, curve in enumerate(after.split(counts) if counts else ()):
        points = torch.cat([original[number, None], curve]) / original[number]
        areas[number] = 1 - torch.trapezoid(points, dx=1 / len(curve))
    protocol = Protocol.of(
        "irof",
        "softmax",
        replacement.name,
        f"{segments} segments",
        higher_is_better=True,
        baseline=replacement.name,
        segments=segments,
        seed=seed,
    )
    extra = {"segments": scattered(count.to(areas), index, len(x))}
    return Scores(scattered(areas, index, len(x)), protocol, tuple(reasons), extra)
