"""Which images to annotate next: those whose attention is unsure.

Each criterion gives a score an image, higher where annotation is expected to help more; none
needs a mask. After the active part of mixed supervision (Huang et al. 2020,
doi:10.1109/TMI.2020.3006138), where the images with the least certain supporting region are drawn
next. Whether a criterion beats random choice is to be measured (`budget_curve`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import GuidanceError
from ..explaining import explain
from ..geometry import size_of
from ..models.outputs import logits_of
from ..registry import Registry

#: name -> fn(model, images, classes, *, layer) -> (B,) scores
CRITERIA = Registry("criterion", error=GuidanceError)


@dataclass(frozen=True, eq=False)
class Choice:
    """What to annotate next.

    Attributes:
        order: indices of the images, the most wanted first.
        scores: (N,) the criterion's value of every image.
        criterion: its name.
    """

    order: tuple[int, ...]
    scores: Tensor
    criterion: str


def choose(
    model: nn.Module,
    data: Iterable[Any],
    count: int,
    *,
    criterion: str = "outside",
    layer: Any = None,
    exclude: Iterable[int] = (),
    per_class: bool = True,
    batch_size: int = 32,
    **options: Any,
) -> Choice:
    """Return the images that are worth annotating next.

    Args:
        model: the classifier as it is now; not changed.
        data: examples (image (C, H, W), label, ...); annotation is not read.
        count: how many to choose.
        criterion: "outside" (evidence outside the probable region), "flip" (the map of the
            mirrored image differs), "layers" (two layers' maps differ; layer=[a, b]), "heads" (the
            heads of a transformer's attention differ), "confusion" (the two best classes are
            close), or "random".
        layer: of the map; None is the model's default.
        exclude: indices that are annotated already.
        per_class: take the same number of each label, as far as there are so many: the most
            uncertain images are otherwise often all of one class.
        batch_size: images a forward.
        **options: of the criterion.

    Returns:
        `Choice`.
    """
    from .batches import batches

    fn = CRITERIA.get(criterion).fn
    if count < 1:
        raise GuidanceError(f"count is at least 1, got {count}")
    scores, labels = [], []
    for batch in batches(data, batch_size):
        scores.append(fn(model, batch.images, batch.labels, layer=layer, **options).cpu())
        labels.append(batch.labels)
    if not scores:
        raise GuidanceError("there is no image to choose from")
    values, classes = torch.cat(scores), torch.cat(labels)
    left = torch.ones(len(values), dtype=torch.bool)
    left[list(exclude)] = False
    ranked = [i for i in values.argsort(descending=True, stable=True).tolist() if left[i]]
    if per_class:
        ranked = _take_turns(ranked, classes.tolist())
    return Choice(tuple(ranked[:count]), values, criterion)


def _take_turns(ranked: Sequence[int], classes: Sequence[int]) -> list[int]:
    queues: dict[int, list[int]] = {}
    for index in ranked:
        queues.setdefault(classes[index], []).append(index)
    turns = [queues[c] for c in sorted(queues)]
    return [q[k] for k in range(max(map(len, turns), default=0)) for q in turns if k < len(q)]


def _maps(model: nn.Module, images: Tensor, classes: Tensor, layer: Any) -> Tensor:
    """Positive maps with sum 1, (B, h, w); one without evidence is spread evenly."""
    values = explain(model, images, target=classes, layer=layer, signed=False).values
    total = values.sum((-2, -1), keepdim=True)
    even = 1 / (values.shape[-2] * values.shape[-1])
    return torch.where(total > 0, values / total.clamp_min(1e-12), torch.full_like(values, even))


@CRITERIA.register("outside", paper="doi:10.1109/TMI.2020.3006138")
def outside(
    model: nn.Module, images: Tensor, classes: Tensor, *, layer: Any = None, threshold: float = 0.5
) -> Tensor:
    """Share of the evidence outside the probable region, the largest part above half the maximum.

    A map with one clear peak scores low; one that is spread, or has several, high.
    """
    import numpy as np

    maps = _maps(model, images, classes, layer)
    shares = []
    for values in maps.cpu():
        region = (values >= threshold * values.max()).numpy()
        parts = _parts(region)
        mass = [
            float(values[torch.from_numpy(parts == k)].sum()) for k in range(1, parts.max() + 1)
        ]
        shares.append(1 - max(mass, default=0.0))
    return torch.from_numpy(np.asarray(shares, np.float32))


def _parts(region: Any) -> Any:
    import cv2
    import numpy as np

    return cv2.connectedComponents(region.astype(np.uint8), connectivity=8)[1]


@CRITERIA.register("flip", paper="arXiv:1811.07484")
def flip(model: nn.Module, images: Tensor, classes: Tensor, *, layer: Any = None) -> Tensor:
    """Distance between the map and that of the mirrored image, mirrored back; in [0, 1]."""
    one = _maps(model, images, classes, layer)
    two = _maps(model, images.flip(-1), classes, layer).flip(-1)
    return 0.5 * (one - two).abs().sum((-2, -1))


@CRITERIA.register("layers", paper="arXiv:1811.07484")
def layers(model: nn.Module, images: Tensor, classes: Tensor, *, layer: Any = None) -> Tensor:
    """Distance between the maps of two layers on the coarser one's grid; in [0, 1]."""
    if not isinstance(layer, list | tuple) or len(layer) != 2:
        raise GuidanceError(
            f"criterion 'layers' compares two: layer=[deep, shallow], got {layer!r}"
        )
    one, two = (_maps(model, images, classes, name) for name in layer)
    size = min(size_of(one), size_of(two))
    one, two = (F.adaptive_avg_pool2d(m, size) for m in (one, two))
    one, two = (m / m.sum((-2, -1), keepdim=True) for m in (one, two))
    return 0.5 * (one - two).abs().sum((-2, -1))


@CRITERIA.register("heads", paper="arXiv:1810.10183")
def heads(model: nn.Module, images: Tensor, classes: Tensor, *, layer: Any = None) -> Tensor:
    """Mean distance between the heads' attention to the patches and their mean; in [0, 1).

    Of the last layer of attention, or the one named, and of the tokens that the model's head
    reads. The same for every class.

    Raises:
        AttentionUnavailable: the model has no attention among patches.
        LayerNotFound: no such attention.
    """
    from ..attention import region_mass_of, tap
    from ..errors import AttentionUnavailable, LayerNotFound, did_you_mean
    from ..hooks import preserved, unwrap

    module = unwrap(model)
    with preserved(module), torch.no_grad(), tap(module, keep="qk", required=False) as read:
        output = module(images)
    found = {s.name: s for s in read.attention if s.has_places and s.images == len(images)}
    if not found:
        raise AttentionUnavailable(
            f"criterion 'heads' needs attention among patches, and {type(module).__name__} has "
            "none; use 'outside', 'flip' or 'layers'"
        )
    if layer is not None and layer not in found:
        raise LayerNotFound(
            f"no attention among patches in layer {layer!r}"
            f"{did_you_mean(str(layer), found) or '.'} Known: {', '.join(found)}"
        )
    site = found[layer] if layer is not None else list(found.values())[-1]
    height, width = site.places().grid
    # every cell is a region of its own, and what falls on it is the attention itself
    cells = torch.eye(height * width, device=images.device).view(-1, height, width)
    from ..methods.attention.mass import rows_of_head

    rows = rows_of_head(module, images, read, [site], output)
    shares = region_mass_of([site], cells, rows=rows)[:, 0]
    shares = shares / shares.sum(-1, keepdim=True).clamp_min(1e-12)
    return 0.5 * (shares - shares.mean(1, keepdim=True)).abs().sum(-1).mean(1)


@CRITERIA.register("confusion")
def confusion(model: nn.Module, images: Tensor, classes: Tensor, *, layer: Any = None) -> Tensor:
    """One minus the margin between the two most probable classes; in [0, 1]."""
    from ..hooks import preserved, unwrap

    module = unwrap(model)
    with preserved(module), torch.no_grad():
        p = logits_of(module(images)).float().softmax(1)
    best = p.topk(2, dim=1).values
    return 1 - (best[:, 0] - best[:, 1])


@CRITERIA.register("random")
def random(
    model: nn.Module, images: Tensor, classes: Tensor, *, layer: Any = None,
    generator: torch.Generator | None = None,
) -> Tensor:  # fmt: skip
    """Random numbers, the control that every other criterion has to beat."""
    return torch.rand(len(images), generator=generator)


def budget_curve(
    order: Sequence[int],
    budgets: Sequence[int],
    score: Callable[[Sequence[int]], float],
    *,
    seeds: int = 3,
) -> Mapping[str, Any]:
    """Return the score at each budget, by the order given and by random choice.

    Args:
        order: all candidate indices, the most wanted first (`choose(..., count=len(data))`).
        budgets: numbers of annotated images, each at most `len(order)`.
        score: indices to annotate -> a figure, such as worst-group accuracy on validation after
            training with them. Called once for each budget, and once for each random choice.
        seeds: random choices.

    Returns:
        {"budgets": [...], "chosen": [...], "random": [[...] a seed], "gain": chosen minus the
        mean of random at each budget}.
    """
    if any(not 0 < b <= len(order) for b in budgets):
        raise GuidanceError(f"budgets {list(budgets)} must lie between 1 and {len(order)}")
    chosen = [float(score(list(order[:b]))) for b in budgets]
    drawn = []
    for seed in range(seeds):
        generator = torch.Generator().manual_seed(seed)
        shuffled = [order[i] for i in torch.randperm(len(order), generator=generator).tolist()]
        drawn.append([float(score(shuffled[:b])) for b in budgets])
    means = [sum(column) / len(column) for column in zip(*drawn, strict=True)]
    gain = [c - m for c, m in zip(chosen, means, strict=True)] if drawn else []
    return {"budgets": list(budgets), "chosen": chosen, "random": drawn, "gain": gain}


__all__ = ["CRITERIA", "Choice", "budget_curve", "choose"]
