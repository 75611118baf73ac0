"""ADCC and ARCC: a map that says little, says enough, and is the same for what it shows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ._inputs import as_images, as_maps, is_flat, stretched, with_reason
from ._register import register_metric
from .drops import masked_images, masked_scores
from .protocol import SCORE_NAMES, Protocol
from .road import road
from .scores import Scores
from .similarity import similarity

Explainer = Callable[[nn.Module, Tensor], Any]


def _composite(
    name: str,
    maps: Tensor,
    again: Any,
    parts: dict[str, Tensor],
    reasons: list[str | None],
    settings: dict[str, Any],
) -> Scores:
    """Return the harmonic mean of coherency, 1 - complexity and `parts`, each in [0, 1]."""
    # a map that vanishes on what it shows has no correlation with itself: 0, so a coherency of 1/2
    coherency = (1 + similarity(maps, as_maps(again).to(maps.device), "pearson").nan_to_num()) / 2
    complexity = stretched(maps).flatten(1).mean(1)
    terms = torch.stack([coherency, 1 - complexity, *parts.values()])
    values = len(terms) / (1 / terms.clamp_min(1e-12)).sum(0)
    reasons = with_reason(reasons, is_flat(maps), "flat map")
    out = torch.tensor([r is not None for r in reasons], device=values.device)
    protocol = Protocol.of(
        name,
        SCORE_NAMES["probability"],
        short=name.upper(),
        higher_is_better=True,
        **settings,
    )
    extra = {"coherency": coherency, "complexity": complexity, **parts}
    return Scores(values.masked_fill(out, float("nan")), protocol, tuple(reasons), extra)


def _maps_twice(explain: Explainer, model: nn.Module, x: Tensor) -> tuple[Tensor, Any]:
    """Return the maps of images, and those of what they show of them on black (zero)."""
    maps = as_maps(explain(model, x), len(x), x.device)
    finite = torch.isfinite(maps).flatten(1).all(1)[:, None, None]
    shown = masked_images(x, torch.where(finite, maps, 0.0), torch.zeros_like(x))
    return maps, explain(model, shown)


@register_metric(
    "adcc",
    family="faithfulness",
    needs=("explainer", "model", "target"),
    higher_is_better=True,
    paper="arXiv:2104.10252",
    forwards=lambda o: 2,
    explanations=lambda o: 2,
)
def adcc(
    explain: Explainer, model: nn.Module, x: Tensor, target: Any = None, *, batch_size: int = 32
) -> Scores:
    """ADCC: harmonic mean of coherency, simplicity and kept score of a map; high is good.

    3 / (1 / coherency + 1 / (1 - complexity) + 1 / (1 - average drop)). Coherency is (1 + r) / 2,
    r being the correlation of the map with the map of the image times the map; complexity the
    mean of the map, stretched to [0, 1]. Poppi, Cornia, Baraldi & Cucchiara, "Revisiting the
    Evaluation of Class Activation Mapping for Explainability" (CVPRW 2021, arXiv:2104.10252).

    Args:
        explain: `explain(model, x)` -> (B, h, w), always for the same targets.
        model: `model(x)` -> logits (B, classes).
        x: (B, C, H, W) the model's input.
        target: as for `faithfulness_curves`, what `explain` explains.
        batch_size: images a forward pass at most.

    Returns:
        `Scores` in [0, 1]; `extra` has each image's "coherency", "complexity" and "drop". Skipped:
        constant maps, maps with NaN.
    """
    x = as_images(x)
    maps, again = _maps_twice(explain, model, x)
    before, after, reasons, _ = masked_scores(model, x, maps, target, batch_size=batch_size)
    drop = (before - after).clamp_min(0) / before
    found = _composite("adcc", maps, again, {"kept": 1 - drop}, reasons, {})
    extra = {k: v for k, v in found.extra.items() if k != "kept"}
    return Scores(found.values, found.protocol, found.reasons, {**extra, "drop": drop})


@register_metric(
    "arcc",
    family="faithfulness",
    needs=("explainer", "model", "target"),
    higher_is_better=True,
    paper="arXiv:2605.14641",
    forwards=lambda o: 1 + 2 * len(o.get("percentiles", (20, 40, 60, 80))),
    explanations=lambda o: 2,
    imputations=lambda o: 2 * len(o.get("percentiles", (20, 40, 60, 80))),
)
def arcc(
    explain: Explainer,
    model: nn.Module,
    x: Tensor,
    target: Any = None,
    *,
    percentiles: tuple[float, ...] = (20, 40, 60, 80),
    batch_size: int = 32,
    seed: int = 0,
) -> Scores:
    """ARCC: as ADCC, with ROAD in the place of the average drop; high is good.

    ROAD is the combined one, (least - most relevant first) / 2, times two and cut to [0, 1].
    Domeniconi, Stramiglio, Lombardi & Salti, "How to Evaluate and Refine your CAM" (2026,
    arXiv:2605.14641).

    Args:
        explain, model, x, target, batch_size: as for `adcc`.
        percentiles: of ROAD, per cent of the pixels removed.
        seed: of ROAD.

    Returns:
        `Scores` in [0, 1]; `extra` has each image's "coherency", "complexity" and "road".
    """
    x = as_images(x)
    maps, again = _maps_twice(explain, model, x)
    curve = road(
        model, x, maps, target, percentiles=percentiles, order="combined",
        batch_size=batch_size, seed=seed,
    )  # fmt: skip
    kept = {"road": (2 * curve.values).clamp(0, 1)}
    settings = {"percentiles": list(percentiles), "seed": seed}
    return _composite("arcc", maps, again, kept, list(curve.reasons), settings)
