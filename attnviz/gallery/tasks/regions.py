"""Noisy scenes to colour maps: do pixels attend to their own kind, do parts fall on objects?

Each pixel is so noisy that its colour alone says little; those of its own region together say it.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from ..modules.attention_gate import AttentionUNet
from ..modules.criss_cross import CrissCrossAttention, dense_attention
from ..modules.expectation_maximization import EMAttention
from ..modules.matrix_decomposition import Hamburger
from ..modules.stand_alone import StandAloneSelfAttention
from . import scenes
from .base import Task, TaskBatch

GRID = scenes.SIDE // 2
NOISE = 0.25


class RegionOutput(NamedTuple):
    """What the region network returns."""

    logits: Tensor
    """(B, 7, 20, 20): background and six colours."""
    attention: Tensor
    """The context module's, in its own shape."""


class RegionNetwork(nn.Module):
    """A convolution that sees 3 x 3 pixels, one context module, a linear head for each cell.

    Args:
        context: returns a tuple with `.output` and `.attention`.
        channels: features of the convolution and of the context's input.
    """

    def __init__(self, context: nn.Module, *, channels: int = 32) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, channels, 4, stride=2, padding=1), nn.ReLU())
        self.context = context
        self.head = nn.Conv2d(channels, len(scenes.COLOURS) + 1, 1)

    def forward(self, image: Tensor) -> RegionOutput:
        """(B, 3, 40, 40) -> RegionOutput."""
        seen = self.context(self.stem(image))
        return RegionOutput(self.head(seen.output), seen.attention)


def sample(count: int, generator: Generator, training: bool) -> TaskBatch:
    """Scenes with noise of standard deviation 0.25 on every channel; labels per 2 x 2 cell."""
    batch = scenes.sample(count, generator, training)
    image = batch.inputs[0]
    image = image + NOISE * torch.randn(image.shape, generator=generator)
    masks = batch.truth["masks"]
    colours = batch.truth["caption"][:, [1, 5]] - scenes.CODE["red"] + 1
    kinds = batch.truth["caption"][:, [2, 6]] - scenes.CODE["disc"]
    covered = F.avg_pool2d(masks, 2) >= 0.5
    label = torch.zeros(count, GRID, GRID, dtype=torch.long)
    target = torch.zeros(count, scenes.SIDE, scenes.SIDE, dtype=torch.long)
    for which in (0, 1):
        label = torch.where(covered[:, which], colours[:, which, None, None], label)
        disc = (kinds[:, which] == 0)[:, None, None]
        target = torch.where((masks[:, which] > 0) & disc, 1, target)
    return TaskBatch((image,), {"label": label, "disc": target, "masks": masks}, batch.text)


def mean_iou(prediction: Tensor, truth: Tensor, classes: int) -> float:
    """Intersection over union, averaged over the classes that occur."""
    values = []
    for c in range(classes):
        union = ((prediction == c) | (truth == c)).sum()
        if union:
            values.append((((prediction == c) & (truth == c)).sum() / union).item())
    return sum(values) / len(values)


def same_kind(model: RegionNetwork, batch: TaskBatch) -> dict[str, float]:
    """Attention of object cells on cells of their own object; what a blind module would give."""
    out = model(*batch.inputs)
    label = batch.truth["label"]
    flat = label.flatten(1)
    same = (flat[:, :, None] == flat[:, None]).float()
    if out.attention.dim() == 5:  # criss-cross: last pass
        dense = dense_attention(out.attention[:, -1])
        blind = (dense > 0).float()
    else:  # windows
        weights = out.attention.mean(1)
        k = weights.shape[-1]
        around = F.unfold(F.pad(label[:, None].float(), (k // 2,) * 4, value=-1.0), k)
        same = (around.transpose(1, 2) == flat[:, :, None]).float()
        dense = weights.flatten(3).flatten(1, 2)
        blind = (around.transpose(1, 2) >= 0).float()
    share = (dense * same).sum(2)
    chance = (blind * same).sum(2) / blind.sum(2)
    objects = flat > 0
    return {
        "accuracy": mean_iou(out.logits.argmax(1), label, len(scenes.COLOURS) + 1),
        "same_region": float(share[objects].mean()),
        "same_region_chance": float(chance[objects].mean()),
    }


def best_part(parts: Tensor, masks: Tensor) -> float:
    """How well the best of an image's parts (B, K, h, w) ranks an object's cells first.

    Area under the ROC curve of that part, averaged over the objects (B, 2, h, w).
    """
    values = []
    for part, mask in zip(parts.flatten(2), masks.flatten(2), strict=True):
        for cells in mask:
            values.append(max(auroc(p[cells], p[~cells]) for p in part))
    return sum(values) / len(values)


def parts_measure(model: RegionNetwork, batch: TaskBatch) -> dict[str, float]:
    """IoU of the colours; whether each object is a part of its own.

    `object_is_a_part_chance` takes the parts of another image: what picking the best of K gives.
    """
    out = model(*batch.inputs)
    masks = F.avg_pool2d(batch.truth["masks"], 2) >= 0.5
    few = slice(0, 200)  # one image at a time: enough, and quick
    parts, masks = out.attention[few], masks[few]
    return {
        "accuracy": mean_iou(out.logits.argmax(1), batch.truth["label"], len(scenes.COLOURS) + 1),
        "object_is_a_part": best_part(parts, masks),
        "object_is_a_part_chance": best_part(parts.roll(1, 0), masks),
    }


def rim(mask: Tensor) -> Tensor:
    """Pixels (B, H, W) within two pixels of the edge of a mask."""
    field = mask[:, None].float()
    grown = F.max_pool2d(field, 5, stride=1, padding=2)
    shrunk = -F.max_pool2d(-field, 5, stride=1, padding=2)
    return (grown > shrunk)[:, 0]


def gate_measure(model: AttentionUNet, batch: TaskBatch) -> dict[str, float]:
    """IoU of the discs; the gate's mean at rims of discs, at rims of other shapes, elsewhere.

    The coarse level knows what is a disc and where about; fine detail is wanted at its rim.
    """
    out = model(*batch.inputs)
    disc = batch.truth["disc"] == 1
    other = (batch.truth["masks"].amax(1) > 0) & ~disc
    at, beside = rim(disc), rim(other)
    gate = out.gate[:, 0]
    wanted, unwanted, rest = gate[at & ~beside], gate[beside & ~at], gate[~(at | beside)]
    return {
        "accuracy": mean_iou(out.logits.argmax(1), batch.truth["disc"], 2),
        "gate_at_disc_rims": float(wanted.mean()),
        "gate_at_other_rims": float(unwanted.mean()),
        "gate_elsewhere": float(rest.mean()),
        "disc_rims_before_other_rims": auroc(wanted, unwanted),
        "disc_rims_before_elsewhere": auroc(wanted, rest),
    }


def auroc(high: Tensor, low: Tensor) -> float:
    """Chance that a value of the first is larger than one of the second."""
    rank = torch.cat((high, low)).argsort().argsort()[: len(high)].double()
    return float((rank.sum() - len(high) * (len(high) - 1) / 2) / (len(high) * len(low)))


def region_task(name: str, says: str, context, measure, holds: dict[str, float]) -> Task:
    """A colour-map task around one context module."""
    return Task(
        name,
        says,
        lambda: RegionNetwork(context()),
        sample,
        measure,
        holds,
    )


TASKS = [
    region_task(
        "criss_cross",
        "Noisy coloured shapes; each object cell attends along its cross to its own object.",
        partial(CrissCrossAttention, 32, hidden=16),
        same_kind,
        {"accuracy": 0.6, "same_region": 0.6},
    ),
    region_task(
        "stand_alone",
        "Noisy coloured shapes; each object cell attends, in its window, to its own object.",
        partial(StandAloneSelfAttention, 32, 32, window=5, heads=2),
        same_kind,
        {"accuracy": 0.6, "same_region": 0.6},
    ),
    region_task(
        "ema",
        "Noisy coloured shapes; bases found by EM divide the image into its regions.",
        partial(EMAttention, 32, bases=8, sharpness=30.0),
        parts_measure,
        {"accuracy": 0.7, "object_is_a_part": 0.9},
    ),
    region_task(
        "hamburger",
        "Noisy coloured shapes; the parts of a low-rank image are its regions.",
        partial(Hamburger, 32, rank=8, sharpness=50.0),
        parts_measure,
        {"accuracy": 0.7, "object_is_a_part": 0.9},
    ),
    Task(
        "attention_gate",
        "Find the discs among other shapes; the skip connection is let through at their rims.",
        AttentionUNet,
        sample,
        gate_measure,
        {"accuracy": 0.8, "disc_rims_before_other_rims": 0.8, "disc_rims_before_elsewhere": 0.8},
    ),
]
