"""Sensitivity-n and faithfulness correlation: do sums of a map foretell what removal costs?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import MetricError
from ..geometry import size_of
from ..statistics.correlation import pearson
from ._inputs import as_images, as_maps, finite_reasons, is_flat, kept, resize_maps, with_reason
from ._random import generator, image_keys
from ._register import register_metric
from .baselines import baseline as make_baseline
from .forward import scoring
from .protocol import SCORE_NAMES, Protocol
from .scores import Scores, scattered
from .substrates import cell_values, cells, unit_name


@register_metric(
    "sensitivity_n",
    family="faithfulness",
    needs=("model",),
    higher_is_better=True,
    paper="arXiv:1711.06104",
    forwards=lambda o: 1 + len(o.get("fractions", range(4))) * o.get("subsets", 50),
)
def sensitivity_n(
    model: Callable[[Tensor], Any],
    x: Tensor,
    maps: Any,
    target: Any = None,
    *,
    fractions: Sequence[float] = (0.1, 0.25, 0.5, 0.75),
    subsets: int = 50,
    baseline: str | Tensor = "mean",
    substrate: str = "patch",
    patch: int | None = None,
    score: str = "logit",
    batch_size: int | None = None,
    seed: int = 0,
) -> Scores:
    """Sensitivity-n: correlation of the map's sum over random cells with the score they carry.

    For several n, the correlation over random sets of n cells between the sum of the map inside
    the set and the score lost when the set is replaced by the baseline; 1 is perfect, averaged over
    n. Ancona, Ceolini, Öztireli & Gross (ICLR 2018, arXiv:1711.06104).

    Args:
        model: a module or function, `model(x)` -> logits (B, classes).
        x: (B, C, H, W) the model's input.
        maps: (B, h, w) contributions to the score, resized to (H, W).
        target: as for `faithfulness_curves`.
        fractions: the sizes n, as shares of the cells.
        subsets: random sets per size.
        baseline: what replaces a set.
        substrate: "patch" (a coarse map says little of single pixels) or "pixel" (as published).
        patch: side of a patch in pixels; None is a fourteenth of the shorter side.
        score: "probability" or "logit".
        batch_size: images a forward pass at most; None chooses, few on a CPU.
        seed: of the sets, which are drawn per image.

    Returns:
        `Scores` in [-1, 1], `extra["by_size"]` (B, sizes). Skipped: a constant map, an image with
        a single cell, a score that no set changes.
    """
    return _subset_correlation(
        "sensitivity_n",
        "sens-n",
        (model, x, maps, target),
        fractions=fractions,
        subsets=subsets,
        baseline=baseline,
        substrate=substrate,
        patch=patch,
        score=score,
        batch_size=batch_size,
        seed=seed,
    )


@register_metric(
    "faithfulness_correlation",
    family="faithfulness",
    needs=("model",),
    higher_is_better=True,
    paper="arXiv:2005.00631",
    forwards=lambda o: 1 + o.get("subsets", 100),
)
def faithfulness_correlation(
    model: Callable[[Tensor], Any],
    x: Tensor,
    maps: Any,
    target: Any = None,
    *,
    fraction: float = 0.1,
    subsets: int = 100,
    baseline: str | Tensor = "zero",
    **options: Any,
) -> Scores:
    """Faithfulness correlation: sensitivity-n at one size of set, on a zero baseline.

    Bhatt, Weller & Moura, "Evaluating and Aggregating Feature-based Model Explanations" (IJCAI
    2020, arXiv:2005.00631). Arguments as `sensitivity_n`, with one `fraction`.
    """
    return _subset_correlation(
        "faithfulness_correlation",
        "faith-corr",
        (model, x, maps, target),
        fractions=(fraction,),
        subsets=subsets,
        baseline=baseline,
        **options,
    )


def _subset_correlation(
    name: str,
    short: str,
    args: tuple[Any, Any, Any, Any],
    *,
    fractions: Sequence[float],
    subsets: int,
    baseline: str | Tensor,
    substrate: str = "patch",
    patch: int | None = None,
    score: str = "logit",
    batch_size: int | None = None,
    seed: int = 0,
) -> Scores:
    model, x, maps, target = args
    if subsets < 3:
        raise MetricError(f"subsets={subsets}, expected at least 3 for a correlation")
    if not len(fractions) or not all(0 < f < 1 for f in fractions):
        raise MetricError(f"fractions={fractions!r}, expected at least one, each between 0 and 1")
    x = as_images(x)
    size = size_of(x)
    maps = as_maps(maps, len(x), x.device)
    label = cells(size, substrate, patch, x.device)
    n = int(label.max()) + 1
    reasons = [
        reason or ("flat map" if flat else "fewer than 2 cells" if n < 2 else None)
        for reason, flat in zip(finite_reasons(maps), is_flat(maps).tolist(), strict=True)
    ]
    index = kept(reasons, x.device)
    relevance = cell_values(resize_maps(maps[index], size), label, "sum")
    counts = [min(max(1, round(f * n)), n - 1) for f in fractions]
    replacement = make_baseline(baseline, x, seed=seed)
    keys = image_keys(x)
    predicted = relevance.new_zeros(len(index), len(counts) * subsets)

    def chosen(local: int, number: int) -> Tensor:
        draw = generator(seed, keys[int(index[local])], f"set {number}")
        found = torch.randperm(n, generator=draw)[: counts[number // subsets]].to(x.device)
        predicted[local, number] = relevance[local, found].sum()
        return found

    with scoring(model, x, target, score=score, batch_size=batch_size) as scorer:
        lost = scorer.without(index, label, replacement, predicted.shape[1], chosen)
    lost = lost.view(-1, subsets)
    agreement = pearson(predicted.view(-1, subsets).to(lost.dtype), lost)
    by_size = scattered(agreement.view(-1, len(counts)), index, len(x))
    values = by_size.nanmean(1)
    reasons = with_reason(reasons, values.isnan(), "no set changes the score")
    unit = unit_name(size, substrate, patch)
    protocol = Protocol.of(
        name,
        SCORE_NAMES[score],
        replacement.name,
        f"{len(counts)} x {subsets} sets",
        unit,
        short=short,
        higher_is_better=True,
        score=score,
        baseline=replacement.name,
        fractions=list(fractions),
        subsets=subsets,
        substrate=unit,
        seed=seed,
    )
    return Scores(values, protocol, tuple(reasons), {"by_size": by_size})
