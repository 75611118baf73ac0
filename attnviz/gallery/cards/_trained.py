"""A small network around one mechanism, trained for seconds on generated scenes.

The mechanisms of timm and torchvision come without weights that can be shipped; a card shows them
in this network instead, and says so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Generator, Tensor, nn

from ..modules.files import restored
from ..tasks import regions, scenes
from ..tasks.base import TaskBatch

SIDE, GRID = scenes.SIDE, regions.GRID
#: on top of the scenes' own noise, so that the whole picture is needed to name one cell
NOISE = 0.45
TINT = 0.2
COLOURS = ("background", *scenes.COLOURS)


class SceneNetwork(nn.Module):
    """A convolution that sees 4 x 4 pixels, a mechanism, a linear head for each cell.

    Args:
        mechanism: (B, channels, 20, 20) to the same shape.
        channels: of the convolution.
        activate: rectify what the convolution gives.
    """

    def __init__(self, mechanism: nn.Module, *, channels: int = 32) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, channels, 4, stride=2, padding=1), nn.BatchNorm2d(channels), nn.ReLU()
        )
        self.mechanism = mechanism
        # normalised first: otherwise every gate opens, a larger activation being a surer answer
        self.head = nn.Sequential(
            nn.BatchNorm2d(channels, affine=False), nn.Conv2d(channels, len(COLOURS), 1)
        )

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, 40, 40) -> (B, 7, 20, 20): logits of background and six colours."""
        return self.head(self.mechanism(self.stem(images)))


@cache
def drawn(count: int, seed: int, *, training: bool, negatives: bool = False) -> TaskBatch:
    """Noisy scenes of two coloured shapes, with the colour of each cell.

    Args:
        count: how many.
        seed: of everything.
        training: which side of the split.
        negatives: every second scene is a photographic negative, labels unchanged, and its
            background a little redder: which a cell alone does not show and the whole picture
            does. Otherwise there is more noise, so that a cell's own colour says little.
    """
    generator = Generator().manual_seed(seed)
    batch = regions.sample(count, generator, training)
    image = batch.inputs[0]
    if negatives:
        odd = (torch.arange(count) % 2).view(-1, 1, 1, 1)
        image = torch.where(odd == 1, negative(image, batch.truth["masks"]), image)
    else:
        image = image + NOISE * torch.randn(image.shape, generator=generator)
    return replace(batch, inputs=(image,))


def negative(images: Tensor, masks: Tensor) -> Tensor:
    """Photographic negatives (B, 3, 40, 40) with a redder background; masks (B, 2, 40, 40)."""
    background = (masks.amax(1) == 0)[:, None]
    return 1 - images + TINT * background * torch.eye(3)[0].view(3, 1, 1)


def scene_network(name: str, build: Callable[[], nn.Module]) -> SceneNetwork:
    """Return the `SceneNetwork` of a card, trained to name the colour of each cell.

    Args:
        name: of the card.
        build: makes the mechanism for 32 channels.
    """
    return restored(f"cards/{name}", lambda: SceneNetwork(build()))


@torch.no_grad()
def judge(
    model: nn.Module,
    *,
    negatives: bool = False,
    change: Callable[[Tensor], Tensor] | None = None,
    gate: nn.Module | None = None,
) -> float:
    """Mean IoU of the colours on 64 test scenes.

    Args:
        model: a `SceneNetwork`.
        negatives: see `drawn`.
        change: what becomes of the output of `gate`, such as its mean over the scenes.
        gate: a module inside the model.
    """
    batch = drawn(64, 7, training=False, negatives=negatives)
    handle = None
    if gate is not None and change is not None:

        def changed(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
            return change(output)

        handle = gate.register_forward_hook(changed)
    try:
        found = model(batch.inputs[0]).argmax(1)
    finally:
        if handle is not None:
            handle.remove()
    return regions.mean_iou(found, batch.truth["label"], len(COLOURS))


def held(gate: Tensor) -> Tensor:
    """The same gate for every image: the mean over the batch."""
    return gate.mean(0, keepdim=True).expand_as(gate)


def scene(number: int, *, negatives: bool = False) -> tuple[Tensor, Tensor, Tensor, str]:
    """One test scene.

    Returns:
        Images (1, 3, 40, 40), or (2, 3, 40, 40) with the negative of the same scene; colour of
        each cell (20, 20); masks (2, 40, 40); what is on it in words.
    """
    batch = drawn(64, 7, training=False, negatives=negatives)
    image, masks = batch.inputs[0][number : number + 1], batch.truth["masks"][number]
    if negatives:  # even numbers are no negatives
        image = torch.cat((image, negative(image, masks[None])))
    words = " ".join(batch.text["caption"][number])
    return image, batch.truth["label"][number], masks, words


def centres(masks: Tensor) -> list[tuple[int, int]]:
    """Cells (row, column) in the middle of each object, masks (2, 40, 40)."""
    rows = torch.arange(SIDE, dtype=torch.float) / 2
    found = []
    for mask in masks:
        total = mask.sum()
        y, x = (mask.sum(1) * rows).sum() / total, (mask.sum(0) * rows).sum() / total
        found.append((int(y), int(x)))
    return found
