"""Does the map stay when the image hardly changes? Noise, flips and shifts.

`explain` is any function of an image batch that returns maps. Fix the class in it: a map that
changes because another class was explained says nothing of the method.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import MetricError
from ._inputs import as_images, as_maps, finite_reasons, resize_maps, with_reason
from ._localise import skip
from ._random import generator, image_keys
from ._register import register_metric
from .protocol import Protocol
from .scores import Scores
from .similarity import similarity as alike

#: image batch (B, C, H, W) and which images of the first batch it holds -> maps (B, h, w)
Explainer = Callable[..., Any]


def _transforms(options: Mapping[str, Any]) -> Sequence[str]:
    return options.get("transforms", ("flip", "shift"))


def _explained(explain: Explainer, x: Tensor) -> Tensor:
    return as_maps(explain(x), len(x), x.device)


@register_metric(
    "max_sensitivity",
    family="robustness",
    needs=("explainer",),
    higher_is_better=False,
    paper="arXiv:1901.09392",
    explanations=lambda o: 1 + o.get("samples", 10),
)
def max_sensitivity(
    explain: Explainer,
    x: Tensor,
    *,
    radius: float = 0.02,
    samples: int = 10,
    perturbations: Tensor | None = None,
    seed: int = 0,
) -> Scores:
    """Max-sensitivity: greatest relative change of the map under small noise; low is good.

    max over noise of |map(x + noise) - map(x)| / |map(x)|, Euclidean norms. Yeh, Hsieh, Suggala,
    Inouye & Ravikumar (NeurIPS 2019, arXiv:1901.09392).

    Args:
        explain: `explain(x)` -> (B, h, w), always for the same classes.
        x: (B, C, H, W) the model's input.
        radius: noise is uniform in [-radius, radius], in the input's units.
        samples: noisy copies per image, one call of `explain` each.
        perturbations: (B, samples, C, H, W) noise of your own instead.
        seed: of the noise, which is drawn per image.

    Returns:
        `Scores`. Skipped: maps that are all zero, maps with NaN.
    """
    x = as_images(x)
    if perturbations is not None:
        if perturbations.ndim != 5 or perturbations[:, 0].shape != x.shape:
            raise MetricError(
                f"perturbations have shape {tuple(perturbations.shape)}, expected (B, samples, "
                f"C, H, W) for images {tuple(x.shape)}"
            )
        samples = perturbations.shape[1]
    if samples < 1:
        raise MetricError(f"samples={samples}, expected at least 1")
    first = _explained(explain, x)
    reasons = finite_reasons(first)
    norm = first.flatten(1).norm(dim=1)
    reasons = with_reason(reasons, norm == 0, "empty map")
    keys = image_keys(x)
    worst = torch.zeros_like(norm)
    for sample in range(samples):
        if perturbations is None:
            noise = torch.stack(
                [
                    torch.rand(i.shape, generator=generator(seed, key, f"radius {sample}"))
                    for i, key in zip(x, keys, strict=True)
                ]
            )
            noise = (noise.to(x) * 2 - 1) * radius
        else:
            noise = perturbations[:, sample].to(x)
        change = _explained(explain, x + noise) - first
        worst = torch.maximum(worst, change.flatten(1).norm(dim=1) / norm)
    reasons = with_reason(reasons, ~torch.isfinite(worst), "map not finite")
    protocol = Protocol.of(
        "max_sensitivity",
        f"radius {radius:g}" if perturbations is None else "own noise",
        f"{samples} samples",
        short="max-sens",
        higher_is_better=False,
        radius=radius if perturbations is None else "own",
        samples=samples,
        seed=seed,
    )
    return Scores(skip(worst, reasons), protocol, tuple(reasons))


@register_metric(
    "stability",
    family="robustness",
    needs=("explainer",),
    higher_is_better=True,
    explanations=lambda o: sum({"flip": 1, "shift": 2}[t] for t in _transforms(o)) + 1,
)
def stability(
    explain: Explainer,
    x: Tensor,
    *,
    transforms: Sequence[str] = ("flip", "shift"),
    shift: int | None = None,
    similarity: str = "spearman",
) -> Scores:
    """Stability: does the map follow when the image is flipped or shifted? 1 is a perfect match.

    Args:
        explain: `explain(x)` -> (B, h, w), always for the same classes.
        x: (B, C, H, W) the model's input.
        transforms: "flip" (left to right) and "shift" (to the right and to the left, edges
            continued by their last pixel; compared where both show the same part).
        shift: pixels; None is a fourteenth of the width.
        similarity: "spearman", "pearson" or "ssim".

    Returns:
        `Scores`, the mean over the transforms; `extra` has one entry for each. Skipped: constant
        maps, maps with NaN. The network itself is not exactly stable either: read it as the
        stability of network and method together.
    """
    unknown = set(transforms) - {"flip", "shift"}
    if unknown or not transforms:
        raise MetricError(f"transforms={tuple(transforms)}, expected 'flip', 'shift' or both")
    x = as_images(x)
    height, width = x.shape[-2:]
    shift = max(1, round(width / 14)) if shift is None else shift
    if "shift" in transforms and not 0 < shift < width:
        raise MetricError(f"shift={shift}, expected 1 to {width - 1} pixels")
    first = _explained(explain, x)
    reasons = finite_reasons(first)
    found: dict[str, Tensor] = {}
    if "flip" in transforms:
        found["flip"] = alike(first, _explained(explain, x.flip(-1)).flip(-1), similarity)
    if "shift" in transforms:
        full = resize_maps(first, (height, width))
        right = F.pad(x, (shift, 0, 0, 0), mode="replicate")[..., :width]
        left = F.pad(x, (0, shift, 0, 0), mode="replicate")[..., shift:]
        moved_right = resize_maps(_explained(explain, right), (height, width))
        moved_left = resize_maps(_explained(explain, left), (height, width))
        found["shift"] = (
            alike(full[..., : width - shift], moved_right[..., shift:], similarity)
            + alike(full[..., shift:], moved_left[..., : width - shift], similarity)
        ) / 2
    values = torch.stack(list(found.values())).mean(0)
    reasons = with_reason(reasons, values.isnan(), "flat map")
    protocol = Protocol.of(
        "stability",
        similarity,
        *transforms,
        higher_is_better=True,
        transforms=list(transforms),
        shift=shift if "shift" in transforms else "unused",
        similarity=similarity,
    )
    return Scores(skip(values, reasons), protocol, tuple(reasons), found)
