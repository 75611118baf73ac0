"""Noisy scenes to colour maps: do pixels attend to their own kind, do parts fall on objects?

Each pixel is so noisy that its colour alone says little; those of its own region together say it.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from ..attention_gate import AttentionUNet
from ..criss_cross import CrissCrossAttention, dense_attention
from ..expectation_maximization import EMAttention
from ..matrix_decomposition import Hamburger
from ..stand_alone import StandAloneSelfAttention
from . import scenes
from .base import Batch, Task

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


def sample(count: int, generator: Generator, training: bool) -> Batch:
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
    return Batch((image,), {"label": label, "disc": target, "masks": masks}, batch.text)


def loss(model: nn.Module, batch: Batch, generator: Generator, *, key: str = "label") -> Tensor:
    """Cross-entropy per cell."""
    return F.cross_entropy(model(*batch.inputs).logits, batch.truth[key])


def mean_iou(prediction: Tensor, truth: Tensor, classes: int) -> float:
    """Intersection over union, averaged over the classes that occur."""
    values = []
    for c in range(classes):
        union = ((prediction == c) | (truth == c)).sum()
        if union:
            values.append((((prediction == c) & (truth == c)).sum() / union).item())
    return sum(values) / len(values)


def same_kind(model: RegionNetwork, batch: Batch) -> dict[str, float]:
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


def purity(model: RegionNetwork, batch: Batch) -> dict[str, float]:
    """Each part is given the class that it covers most, image by image: share of cells then right.

    `purity_chance` gives every cell the background. `object_recall` is the share of object cells
    that lie in a part given their own object's class.
    """
    out = model(*batch.inputs)
    label = batch.truth["label"]
    part = F.one_hot(out.attention.argmax(1), out.attention.shape[1]).flatten(1, 2).float()
    kinds = F.one_hot(label, len(scenes.COLOURS) + 1).flatten(1, 2).float()
    named = (part.transpose(1, 2) @ kinds).argmax(2)
    given = named.gather(1, out.attention.argmax(1).flatten(1)).view_as(label)
    return {
        "accuracy": mean_iou(out.logits.argmax(1), label, len(scenes.COLOURS) + 1),
        "purity": float((given == label).double().mean()),
        "purity_chance": float((label == 0).double().mean()),
        "object_recall": float((given == label)[label > 0].double().mean()),
    }


def gate_measure(model: AttentionUNet, batch: Batch) -> dict[str, float]:
    """IoU of the discs; the gate's mean on discs, on other shapes and on the background."""
    out = model(*batch.inputs)
    disc = batch.truth["disc"] == 1
    other = (batch.truth["masks"].amax(1) > 0) & ~disc
    gate = out.gate[:, 0]
    on, beside, empty = (float(gate[m].mean()) for m in (disc, other, ~(disc | other)))
    order = gate.flatten().argsort().argsort().double() + 1
    flag = disc.flatten()
    positives, negatives = int(flag.sum()), int((~flag).sum())
    area = (order[flag].sum() - positives * (positives + 1) / 2) / (positives * negatives)
    return {
        "accuracy": mean_iou(out.logits.argmax(1), batch.truth["disc"], 2),
        "gate_on_disc": on,
        "gate_on_other_shapes": beside,
        "gate_on_background": empty,
        "gate_auroc_disc": float(area),
    }


def region_task(name: str, says: str, context, measure, holds: dict[str, float]) -> Task:
    """A colour-map task around one context module."""
    return Task(
        name,
        says,
        lambda: RegionNetwork(context()),
        sample,
        loss,
        measure,
        holds,
        steps=700,
        batch=16,
        rate=4e-3,
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
        partial(StandAloneSelfAttention, 32, 32, window=7, heads=4),
        same_kind,
        {"accuracy": 0.6, "same_region": 0.6},
    ),
    region_task(
        "ema",
        "Noisy coloured shapes; bases found by EM divide the image into its regions.",
        partial(EMAttention, 32, bases=8),
        purity,
        {"accuracy": 0.6, "purity": 0.9},
    ),
    region_task(
        "hamburger",
        "Noisy coloured shapes; the parts of a low-rank image are its regions.",
        partial(Hamburger, 32, rank=8),
        purity,
        {"accuracy": 0.6, "purity": 0.9},
    ),
    Task(
        "attention_gate",
        "Find the discs among other shapes; the skip connection is let through at the discs.",
        AttentionUNet,
        sample,
        partial(loss, key="disc"),
        gate_measure,
        {"accuracy": 0.8, "gate_auroc_disc": 0.8},
        steps=700,
        batch=16,
        rate=4e-3,
    ),
]
