"""MaxBoxAcc and MaxBoxAccV2: box accuracy at the data set's best threshold.

Choe, Oh, Lee, Chun, Akata & Shim, "Evaluating Weakly Supervised Object Localization Methods Right"
(CVPR 2020, arXiv:2001.07437), and the extended version (TPAMI 2022, arXiv:2007.04178), which
averages over three overlaps and considers all bright parts.

The published code makes boxes one pixel too large (a perfect 10-pixel square has an IoU of
100 / 121 = .826), works on maps rounded to 8 bits, and counts the outlines of holes as parts.
`legacy=True` does the same, to reproduce published numbers; the default is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import MetricError
from ._localise import skip
from ._register import register_metric
from .iou import above, against_boxes, component_boxes, each_kept, overlaps
from .protocol import Protocol, require_alike
from .scores import Scores


@dataclass(frozen=True, eq=False, repr=False)
class BoxAccuracy(Scores):
    """Box overlaps at every threshold; the `summary` is the accuracy at the best one.

    Attributes:
        values: (B,) the image's overlap at its own best threshold. Their mean is not the summary,
            for which one threshold serves all images.
        thresholds: (T,) shares of the map's range.
        overlap: (B, T) IoU of the map's box with the nearest true box; NaN where skipped.
        required: the IoUs that count as a hit; the accuracy is averaged over them.
    """

    thresholds: Tensor = field(kw_only=True)
    overlap: Tensor = field(kw_only=True)
    required: tuple[float, ...] = field(kw_only=True)

    def accuracies(self) -> Tensor:
        """Return (T, required) the share of images that hit at each threshold."""
        kept = self.overlap[~self.overlap.isnan().any(1)]
        return torch.stack([(kept >= r).double().mean(0) for r in self.required], 1)

    def summary(self) -> float:
        """Return the accuracy at the best threshold for each required IoU, averaged; 0 to 1."""
        return float(self.accuracies().amax(0).mean())

    def replicates(self, index: Tensor) -> Tensor:
        """Return the accuracy at the best threshold of many redrawn sets of images, (R,)."""
        overlap = self.overlap.cpu()
        found = torch.zeros(len(index), dtype=torch.float64)
        for required in self.required:
            hits = (overlap >= required).float()
            for into, rows in zip(found, index, strict=True):
                into += hits[rows].mean(0).max()
        return found / len(self.required)

    @classmethod
    def join(cls, parts: Sequence[BoxAccuracy]) -> BoxAccuracy:
        """Return the results of several batches as one."""
        require_alike(part.protocol for part in parts)
        base = Scores.join(parts)
        return cls(
            base.values,
            base.protocol,
            base.reasons,
            base.extra,
            thresholds=parts[0].thresholds,
            overlap=torch.cat([part.overlap for part in parts]),
            required=parts[0].required,
        )


def _accuracy(
    name: str,
    short: str,
    maps: Any,
    boxes: Any,
    *,
    required: tuple[float, ...],
    all_parts: bool,
    thresholds: int,
    size: tuple[int, int] | None,
    legacy: bool,
) -> BoxAccuracy:
    if thresholds < 1:
        raise MetricError(f"thresholds={thresholds}, expected at least 1")
    values, truth, reasons = against_boxes(maps, boxes, size)
    # the published arithmetic: np.arange(0, 1, 1 / thresholds)
    at = np.arange(thresholds) * (1 / thresholds)
    found = torch.zeros(len(values), thresholds, dtype=torch.float64)
    if legacy:
        reasons = [None if r == "flat map" else r for r in reasons]
    for number, rows in each_kept(truth, reasons):
        for column, threshold in enumerate(at):
            if legacy:
                mine = legacy_boxes(values[number], float(threshold), all_parts=all_parts)
            else:
                mine, _ = component_boxes(above(values[number][None], float(threshold))[0])
                mine = mine if all_parts else mine[:1]
            best = overlaps(mine, rows, inclusive=legacy)
            found[number, column] = best.max() if best.numel() else 0.0
    missing = torch.tensor([r is not None for r in reasons])
    found[missing] = float("nan")
    protocol = Protocol.of(
        name,
        f"{thresholds} thresholds",
        *(["legacy"] if legacy else []),
        short=short,
        higher_is_better=True,
        thresholds=thresholds,
        legacy=legacy,
        required=list(required),
        all_parts=all_parts,
    )
    return BoxAccuracy(
        skip(found.amax(1), reasons),
        protocol,
        tuple(reasons),
        thresholds=torch.from_numpy(at),
        overlap=found,
        required=required,
    )


def legacy_boxes(values: Tensor, threshold: float, *, all_parts: bool) -> Tensor:
    """Return boxes (n, 4) as the published code makes them, last pixels inclusive.

    Args:
        values: (H, W) map; stretched to [0, 1] and cut to 8 bits.
        threshold: share of the greatest 8-bit value.
        all_parts: all outlines, holes among them, rather than the largest.
    """
    import cv2

    values = values.double()
    span = values.max() - values.min()
    scaled = (values - values.min()) / span if span > 0 else torch.zeros_like(values)
    image = (scaled * 255).to(torch.uint8).cpu().numpy()
    _, binary = cv2.threshold(image, int(threshold * image.max()), 255, cv2.THRESH_BINARY)
    outlines, _ = cv2.findContours(binary, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
    if not outlines:
        return torch.zeros(1, 4, dtype=torch.float64)
    if not all_parts:
        outlines = [max(outlines, key=cv2.contourArea)]
    height, width = image.shape
    boxes = []
    for outline in outlines:
        x, y, w, h = cv2.boundingRect(outline)
        boxes.append([x, y, min(x + w, width - 1), min(y + h, height - 1)])
    return torch.tensor(boxes, dtype=torch.float64)


@register_metric(
    "maxboxacc",
    family="localisation",
    needs=("boxes",),
    higher_is_better=True,
    paper="arXiv:2001.07437",
)
def maxboxacc(
    maps: Any,
    boxes: Any,
    *,
    thresholds: int = 100,
    size: tuple[int, int] | None = None,
    legacy: bool = False,
) -> BoxAccuracy:
    """MaxBoxAcc: share of images whose box overlaps a true one by half, at the best threshold.

    Args:
        maps: (B, h, w).
        boxes: per image its boxes (n, 4), half-open (x0, y0, x1, y1) in pixels of `size`; with
            `legacy` as published, their last pixel inclusive.
        thresholds: how many, evenly from 0 (published: 1,000).
        size: (H, W) that maps are resized to first; None leaves them as they are.
        legacy: the published code's boxes, see the module.

    Returns:
        `BoxAccuracy`. Skipped: images without boxes, maps with NaN, constant maps (with `legacy`
        these are misses, as published).
    """
    return _accuracy(
        "maxboxacc",
        "MaxBoxAcc",
        maps,
        boxes,
        required=(0.5,),
        all_parts=False,
        thresholds=thresholds,
        size=size,
        legacy=legacy,
    )


@register_metric(
    "maxboxacc_v2",
    family="localisation",
    needs=("boxes",),
    higher_is_better=True,
    paper="arXiv:2007.04178",
)
def maxboxacc_v2(
    maps: Any,
    boxes: Any,
    *,
    thresholds: int = 100,
    size: tuple[int, int] | None = None,
    legacy: bool = False,
) -> BoxAccuracy:
    """MaxBoxAccV2: as MaxBoxAcc, averaged over IoUs of .3, .5 and .7, over all bright parts.

    Arguments as `maxboxacc`.
    """
    return _accuracy(
        "maxboxacc_v2",
        "MaxBoxAccV2",
        maps,
        boxes,
        required=(0.3, 0.5, 0.7),
        all_parts=True,
        thresholds=thresholds,
        size=size,
        legacy=legacy,
    )
