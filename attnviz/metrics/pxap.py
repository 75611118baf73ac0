"""Pixel average precision and AUROC: is the object's every pixel brighter than the rest?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..geometry import size_of
from ..statistics.correlation import average_ranks
from ._inputs import as_maps, as_masks, finite_reasons, resize_maps, stretched
from ._localise import against_masks, skip
from ._register import register_metric
from .protocol import Protocol
from .scores import Scores


def average_precision(scores: Tensor, positive: Tensor) -> Tensor:
    """Return the average precision of one ranking: mean precision at each true pixel, ties shared.

    Sum of (recall gained) x (precision) over the distinct scores, from high to low; a constant
    ranking scores the prevalence.

    Args:
        scores: (n,).
        positive: (n,) bool, at least one True.

    Returns:
        () float64.
    """
    ordered, order = scores.sort(descending=True)
    true = positive[order].double().cumsum(0)
    # the last pixel of each group of equal scores
    last = torch.ones_like(positive)
    last[:-1] = ordered[1:] != ordered[:-1]
    hits = true[last]
    seen = torch.arange(1, len(scores) + 1, device=scores.device)[last]
    gained = torch.diff(hits, prepend=hits.new_zeros(1)) / true[-1]
    return (gained * hits / seen).sum()


def area_under_roc(scores: Tensor, positive: Tensor) -> Tensor:
    """Return the chance that a true pixel ranks above a false one, ties half; () float64.

    Args:
        scores: (n,).
        positive: (n,) bool, some True and some False.
    """
    rank = average_ranks(scores[None])[0]
    n = positive.sum().double()
    return (rank[positive].sum() - n * (n + 1) / 2) / (n * (len(scores) - n))


def _per_image(maps: Any, masks: Any, measure: Any, name: str) -> Scores:
    values, inside, reasons = against_masks(maps, masks, flat=False)
    found = torch.full((len(values),), float("nan"), dtype=torch.float64, device=values.device)
    for number, (row, mask) in enumerate(zip(values, inside, strict=True)):
        if reasons[number] is None:
            found[number] = measure(row.flatten(), mask.flatten())
    prevalence = inside.flatten(1).double().mean(1)
    protocol = Protocol.of(name, higher_is_better=True)
    return Scores(skip(found, reasons), protocol, tuple(reasons), {"prevalence": prevalence})


@register_metric("auroc", family="localisation", needs=("masks",), higher_is_better=True)
def auroc(maps: Any, masks: Any) -> Scores:
    """AUROC: chance that a pixel of the object is brighter than one outside, ties half.

    Args:
        maps: (B, h, w), resized to the masks' size.
        masks: (B, H, W) where the object is.

    Returns:
        `Scores` in [0, 1]; a constant map scores .5. Skipped: empty and full masks, maps with NaN.
    """
    return _per_image(maps, masks, area_under_roc, "auroc")


@register_metric(
    "pxap",
    family="localisation",
    needs=("masks",),
    higher_is_better=True,
    paper="arXiv:2001.07437",
)
def pxap(maps: Any, masks: Any) -> Scores:
    """PxAP: area under the precision-recall curve of the pixels, each image by itself.

    Choe et al. (CVPR 2020, arXiv:2001.07437); differs from the paper, which pools the pixels of
    all images: see `pooled_pxap`.

    Args:
        maps: (B, h, w), resized to the masks' size.
        masks: (B, H, W) where the object is.

    Returns:
        `Scores` in [0, 1]; `extra["prevalence"]` is what a constant map scores. Skipped: empty and
        full masks, maps with NaN.
    """
    return _per_image(maps, masks, average_precision, "pxap")


@dataclass(frozen=True, eq=False, repr=False)
class PooledPrecision(Scores):
    """PxAP over the pixels of all images together; `values` are the images' own.

    Attributes:
        pixels: per image its pixels' values (n,), stretched to [0, 1], and whether they are true.
        thresholds: 0 for the exact area, else the bins of the published histogram.
    """

    pixels: tuple[tuple[Tensor, Tensor], ...] = field(kw_only=True)
    thresholds: int = field(kw_only=True)

    def summary(self) -> float:
        """Return the area under the pooled precision-recall curve, 0 to 1."""
        chosen = [i for i in range(len(self.pixels)) if self.reasons[i] is None]
        if not chosen:
            return float("nan")
        values = torch.cat([self.pixels[i][0] for i in chosen])
        positive = torch.cat([self.pixels[i][1] for i in chosen])
        if not bool(positive.any()):
            return float("nan")
        if not self.thresholds:
            return float(average_precision(values, positive))
        return float(binned_precision(values, positive, self.thresholds))

    def replicates(self, index: Tensor) -> Tensor:
        """Return the pooled area of many redrawn sets of images, (R,), from 1,000 bins."""
        bins = self.thresholds or 1000
        true, seen = (
            torch.stack(counts)
            for counts in zip(*(_histogram(v, p, bins) for v, p in self.pixels), strict=True)
        )
        areas = [_binned_area(true[rows].sum(0), seen[rows].sum(0)) for rows in index]
        return torch.stack(areas).cpu()

    def counts(self, image: int) -> tuple[Tensor, Tensor]:
        """Return an image's true pixels and all pixels in each bin, from the highest down."""
        return _histogram(*self.pixels[image], self.thresholds)

    @classmethod
    def of_counts(
        cls,
        values: Tensor,
        protocol: Protocol,
        reasons: Sequence[str | None],
        thresholds: int,
        counts: Sequence[tuple[Sequence[int], Sequence[int]]],
    ) -> PooledPrecision:
        """Return the result that has each image's `counts`: pixels at the middles of their bins."""
        # the bin of exactly 1 comes first
        middle = torch.cat([torch.ones(1), 1 - (torch.arange(thresholds) + 0.5) / thresholds])
        pixels = []
        for true, seen in counts:
            inside, every = torch.tensor(true), torch.tensor(seen)
            parts = middle.repeat_interleave(inside), middle.repeat_interleave(every - inside)
            positive = torch.arange(len(parts[0]) + len(parts[1])) < len(parts[0])
            pixels.append((torch.cat(parts), positive))
        return cls(values, protocol, tuple(reasons), pixels=tuple(pixels), thresholds=thresholds)

    @classmethod
    def join(cls, parts: Sequence[PooledPrecision]) -> PooledPrecision:
        """Return the results of several batches as one."""
        base = Scores.join(parts)
        return cls(
            base.values,
            base.protocol,
            base.reasons,
            base.extra,
            pixels=tuple(p for part in parts for p in part.pixels),
            thresholds=parts[0].thresholds,
        )


def binned_precision(values: Tensor, positive: Tensor, thresholds: int) -> Tensor:
    """Return the published area: scores in [0, 1] counted in `thresholds` bins, 1 in its own.

    Args:
        values: (n,) in [0, 1].
        positive: (n,) bool.
        thresholds: bins [0, 1/T), [1/T, 2/T), ...; a value of exactly 1 has a further bin.
    """
    return _binned_area(*_histogram(values, positive, thresholds))


def _histogram(values: Tensor, positive: Tensor, bins: int) -> tuple[Tensor, Tensor]:
    """Return how many true pixels, and how many pixels, fall in each bin, from the highest down."""
    edges = torch.arange(bins, dtype=torch.float64, device=values.device) * (1 / bins)
    place = torch.bucketize(values.double(), edges, right=True) - 1
    place = torch.where(values >= 1, bins, place)
    true = torch.bincount(place[positive], minlength=bins + 1)
    return true.double().flip(0), torch.bincount(place, minlength=bins + 1).double().flip(0)


def _binned_area(true: Tensor, seen: Tensor) -> Tensor:
    true, seen = true.cumsum(0), seen.cumsum(0)
    gained = torch.diff(true, prepend=true.new_zeros(1)) / true[-1]
    return (gained * true / seen.clamp_min(1)).sum()


@register_metric(
    "pooled_pxap",
    family="localisation",
    needs=("masks",),
    higher_is_better=True,
    paper="arXiv:2001.07437",
)
def pooled_pxap(maps: Any, masks: Any, *, legacy: bool = False, thresholds: int = 1000) -> Scores:
    """PxAP as the paper pools it: one precision-recall curve over the pixels of all images.

    Each map is stretched to [0, 1] first, as pixels of different images are compared. Keeps every
    pixel: about 5 bytes each.

    Args:
        maps: (B, h, w), resized to the masks' size.
        masks: (B, H, W) where the object is.
        legacy: count scores in `thresholds` bins, as the published code does.
        thresholds: bins for `legacy`.

    Returns:
        `PooledPrecision`, whose `summary()` is the pooled area. Skipped: maps with NaN. A constant
        map is all zeros; images with an empty or a full mask add their pixels, as published.
    """
    raw = as_maps(maps)
    inside = as_masks(masks, len(raw), raw.device)
    reasons = finite_reasons(raw)
    values = stretched(resize_maps(raw, size_of(inside)))
    found = torch.full((len(raw),), float("nan"), dtype=torch.float64, device=raw.device)
    pixels = []
    for number, (row, mask) in enumerate(zip(values, inside, strict=True)):
        pixels.append((row.flatten(), mask.flatten()))
        if reasons[number] is None and bool(mask.any()):
            found[number] = average_precision(row.flatten(), mask.flatten())
    protocol = Protocol.of(
        "pooled_pxap",
        *([f"legacy, {thresholds} bins"] if legacy else []),
        short="PxAP",
        higher_is_better=True,
        legacy=legacy,
        thresholds=thresholds if legacy else 0,
    )
    return PooledPrecision(
        found,
        protocol,
        tuple(reasons),
        pixels=tuple(pixels),
        thresholds=thresholds if legacy else 0,
    )
