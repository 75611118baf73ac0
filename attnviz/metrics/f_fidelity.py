"""F-Fidelity: random parts of the explanation are removed, few enough to stay familiar."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import MetricError
from ..geometry import size_of
from ._inputs import as_images, as_maps, finite_reasons, kept, resize_maps
from ._random import generator, image_keys
from ._register import register_metric
from .baselines import baseline as make_baseline
from .forward import scoring
from .protocol import SCORE_NAMES, Protocol
from .scores import Scores, scattered
from .substrates import cell_values, cells, ranks, unit_name

_SIZES = (0.1, 0.3, 0.5, 0.7, 0.9)


@register_metric(
    "f_fidelity",
    family="faithfulness",
    needs=("model",),
    higher_is_better=True,
    paper="arXiv:2410.02970",
    forwards=lambda o: 1 + 2 * len(o.get("sizes", _SIZES)) * o.get("samples", 20),
)
def f_fidelity(
    model: Callable[[Tensor], Any],
    x: Tensor,
    maps: Any,
    target: Any = None,
    *,
    sizes: Sequence[float] = _SIZES,
    alpha: float = 0.5,
    beta: float = 0.1,
    samples: int = 20,
    baseline: str | Tensor = "zero",
    patch: int | None = None,
    score: str = "probability",
    batch_size: int = 32,
    seed: int = 0,
) -> Scores:
    """F-Fidelity: what random parts of the explanation cost, less what parts of the rest cost.

    FFid+ - FFid-, averaged over sizes of explanation. Of the n cells the s highest are the
    explanation; FFid+ is the mean loss of score without min(alpha s, beta n) of them, drawn at
    random, FFid- without min(alpha (n - s), beta n) of the others. Zheng, Shirani, Chen, Lin,
    Cheng, Guo & Luo, "F-Fidelity: A Robust Framework for Faithfulness Evaluation of Explainable
    AI" (ICLR 2025, arXiv:2410.02970). Differs from the paper in the score, where it counts hits.

    The paper's model is fine-tuned on pictures with up to the share beta hidden at random, so that
    what it is shown here is familiar to it, and explained as it was before: give that model, such
    as `attnviz guide --erasing has` trains it, with the maps of the original.

    Args:
        model: a module or function, `model(x)` -> logits (B, classes).
        x: (B, C, H, W) the model's input.
        maps: (B, h, w), resized.
        target: as for `faithfulness_curves`.
        sizes: shares of the cells that are taken for the explanation, each between 0 and 1.
        alpha: share of the explanation (of the rest) that is removed,
        beta: but at most this share of all cells.
        samples: random sets for each size and side.
        baseline: what stands where cells are removed.
        patch: side of a cell in pixels; None is a fourteenth of the shorter side.
        score: "probability" or "logit".
        batch_size: images a forward pass at most.
        seed: of the sets, which are drawn per image.

    Returns:
        `Scores`; `extra["plus"]` and `extra["minus"]` (B, sizes). Skipped: maps with NaN.
    """
    if not len(sizes) or not all(0 < s < 1 for s in (*sizes, alpha / 2, beta / 2)) or samples < 1:
        raise MetricError(
            f"sizes={sizes!r} are at least one share between 0 and 1, alpha={alpha} and "
            f"beta={beta} above 0 and at most 1, samples={samples} at least 1"
        )
    x = as_images(x)
    size = size_of(x)
    maps = as_maps(maps, len(x), x.device)
    reasons = finite_reasons(maps)
    index = kept(reasons, x.device)
    label = cells(size, "patch", patch, x.device)
    n = int(label.max()) + 1
    rank = ranks(cell_values(resize_maps(maps[index], size), label), x[index], seed)
    order = rank.argsort(1)  # the cells, highest first
    replacement = make_baseline(baseline, x, seed=seed)
    keys = image_keys(x)
    counts = [min(max(1, round(s * n)), n - 1) for s in sizes]

    def chosen(local: int, number: int) -> Tensor:
        part, _ = divmod(number, samples)
        cut = counts[part // 2]
        among = order[local, cut:] if part % 2 else order[local, :cut]
        take = max(1, min(round(alpha * len(among)), round(beta * n)))
        draw = generator(seed, keys[int(index[local])], f"set {number}")
        return among[torch.randperm(len(among), generator=draw)[:take].to(among.device)]

    with scoring(model, x, target, score=score, batch_size=batch_size) as scorer:
        lost = scorer.without(index, label, replacement, 2 * len(counts) * samples, chosen)
    lost = lost.view(len(index), len(counts), 2, samples).mean(-1)
    sides = scattered(lost, index, len(x))
    plus, minus = sides[:, :, 0], sides[:, :, 1]
    unit = unit_name(size, "patch", patch)
    protocol = Protocol.of(
        "f_fidelity",
        SCORE_NAMES[score],
        replacement.name,
        unit,
        short="FFid",
        higher_is_better=True,
        score=score,
        baseline=replacement.name,
        sizes=list(sizes),
        alpha=alpha,
        beta=beta,
        samples=samples,
        substrate=unit,
        seed=seed,
    )
    values = (plus - minus).mean(1)
    return Scores(values, protocol, tuple(reasons), {"plus": plus, "minus": minus})
