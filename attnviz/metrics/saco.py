"""SaCo: do groups of pixels that a map calls more salient matter more, and by how much?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..errors import MetricError
from ..geometry import size_of
from ._inputs import as_images, as_maps, finite_reasons, is_flat, kept, resize_maps, with_reason
from ._register import register_metric
from .baselines import baseline as make_baseline
from .forward import scoring
from .protocol import SCORE_NAMES, Protocol
from .scores import Scores, scattered
from .substrates import pixel_ranks, schedule


@register_metric(
    "saco",
    family="faithfulness",
    needs=("model",),
    higher_is_better=True,
    paper="arXiv:2404.01415",
    forwards=lambda o: 1 + o.get("groups", 10),
)
def saco(
    model: Callable[[Tensor], Any],
    x: Tensor,
    maps: Any,
    target: Any = None,
    *,
    groups: int = 10,
    baseline: str | Tensor = "mean",
    score: str = "probability",
    batch_size: int | None = None,
    seed: int = 0,
) -> Scores:
    """SaCo: salience-guided faithfulness coefficient, -1 to 1; high is good.

    Pixels are ranked and cut into groups of equal size; each group alone is replaced. Every pair of
    groups counts for the map, by the difference of their saliences, if the more salient one costs
    at least as much score, and against it otherwise. Wu, Kang, Tang, Hong & Yan, "On the
    Faithfulness of Vision Transformer Explanations" (CVPR 2024, arXiv:2404.01415), algorithm 1.

    Args:
        model: a module or function, `model(x)` -> logits (B, classes).
        x: (B, C, H, W) the model's input.
        maps: (B, h, w) salience, resized to (H, W).
        target: as for `faithfulness_curves`.
        groups: number of groups; fewer where the image has fewer pixels.
        baseline: what replaces a group (the paper: the image's mean).
        score: "probability" or "logit".
        batch_size: images a forward pass at most; None chooses, few on a CPU.
        seed: of the order among equally salient pixels.

    Returns:
        `Scores`. A map whose groups are all equally salient says nothing: skipped as flat.
    """
    if groups < 2:
        raise MetricError(f"groups={groups}, expected at least 2")
    x = as_images(x)
    maps = as_maps(maps, len(x), x.device)
    reasons = with_reason(finite_reasons(maps), is_flat(maps), "flat map")
    index = kept(reasons, x.device)
    values = resize_maps(maps[index], size_of(x))
    rank, n = pixel_ranks(values, x[index], substrate="pixel", seed=seed)
    edges = torch.tensor(schedule(n, groups), device=x.device)
    count = len(edges) - 1
    group = torch.bucketize(rank, edges[1:], right=True)
    salience = values.new_zeros(len(index), count)
    for into, where, row in zip(salience, group, values, strict=True):
        into.index_add_(0, where.flatten(), row.flatten())
    replacement = make_baseline(baseline, x, seed=seed)
    row = torch.arange(len(index), device=x.device).repeat_interleave(count)
    with scoring(model, x, target, score=score, batch_size=batch_size) as scorer:

        def build(jobs: Tensor) -> Tensor:
            keep = group[row[jobs]] != (jobs % count)[:, None, None]
            return replacement.apply(x, index[row[jobs]], keep)

        after = scorer(index[row], build).view(-1, count)
        lost = scorer.original[index, None] - after
    pairs = torch.triu_indices(count, count, 1, device=x.device)
    weight = (salience[:, pairs[0]] - salience[:, pairs[1]]).to(lost.dtype)
    agrees = torch.where(lost[:, pairs[0]] >= lost[:, pairs[1]], weight, -weight)
    total = weight.abs().sum(1)
    found = scattered(agrees.sum(1) / total, index, len(x))
    reasons = with_reason(reasons, found.isnan(), "flat map")
    protocol = Protocol.of(
        "saco",
        SCORE_NAMES[score],
        replacement.name,
        f"{groups} groups",
        higher_is_better=True,
        score=score,
        baseline=replacement.name,
        groups=groups,
        seed=seed,
    )
    return Scores(found, protocol, tuple(reasons))
