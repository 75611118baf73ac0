"""Scenes of two coloured shapes with a caption: does the map of a word fall on the object it names?

"a red disc left of a blue square": colour and shape of an object are known only by looking at it,
so each caption word has an object it should be read from.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from ...geometry import size_of
from ..modules.captioning import END, Captioner, HardCaptioner
from .base import Task, TaskBatch

SIDE = 40
COLOURS = {
    "red": (0.85, 0.15, 0.15),
    "green": (0.15, 0.65, 0.2),
    "blue": (0.2, 0.3, 0.85),
    "yellow": (0.9, 0.8, 0.15),
    "white": (0.95, 0.95, 0.95),
    "black": (0.05, 0.05, 0.05),
}
SHAPES = ("disc", "square", "triangle", "cross")
RELATIONS = ("left-of", "above")
WORDS = ["a", *COLOURS, *SHAPES, *RELATIONS]
CODE = {word: number + 3 for number, word in enumerate(WORDS)}


def draw_shape(kind: int, y: float, x: float, radius: float) -> Tensor:
    """Mask (SIDE, SIDE) of one shape around (y, x), in pixels."""
    rows = torch.arange(SIDE)[:, None] + 0.5 - y
    columns = torch.arange(SIDE)[None] + 0.5 - x
    if kind == 0:
        return rows.square() + columns.square() <= radius**2
    if kind == 1:
        return torch.maximum(rows.abs(), columns.abs()) <= 0.85 * radius
    if kind == 2:  # apex up
        return (rows <= 0.8 * radius) & (columns.abs() <= 0.55 * (rows + radius))
    arm = 0.38 * radius
    slim = torch.minimum(rows.abs(), columns.abs()) <= arm
    return slim & (torch.maximum(rows.abs(), columns.abs()) <= radius)


def scene(generator: Generator) -> tuple[Tensor, list[str], Tensor]:
    """Image (3, SIDE, SIDE), caption words, masks (2, SIDE, SIDE) in the caption's order."""
    across = bool(torch.rand(1, generator=generator) < 0.5)
    numbers = torch.rand(6, generator=generator).tolist()
    first, second = 8.5 + 6 * numbers[0], SIDE - 8.5 - 6 * numbers[1]
    side = [9 + (SIDE - 18) * n for n in numbers[2:4]]
    places = [(side[0], first), (side[1], second)]
    if not across:
        places = [(x, y) for y, x in places]
    colours = torch.randperm(len(COLOURS), generator=generator)[:2].tolist()
    kinds = torch.randint(len(SHAPES), (2,), generator=generator).tolist()
    grey = 0.35 + 0.3 * torch.rand(1, generator=generator)
    image = grey + 0.05 * torch.randn(3, SIDE, SIDE, generator=generator)
    masks, phrases = [], []
    for (y, x), colour, kind, size in zip(places, colours, kinds, numbers[4:], strict=True):
        mask = draw_shape(kind, y, x, 6.5 + 1.5 * size)
        paint = torch.tensor(list(COLOURS.values())[colour])[:, None, None]
        image = torch.where(
            mask, paint + 0.05 * torch.randn(3, SIDE, SIDE, generator=generator), image
        )
        masks.append(mask)
        phrases.append(["a", list(COLOURS)[colour], SHAPES[kind]])
    words = [*phrases[0], RELATIONS[0] if across else RELATIONS[1], *phrases[1]]
    return image.clamp(0, 1), words, torch.stack(masks)


def sample(count: int, generator: Generator, training: bool) -> TaskBatch:
    """Scenes drawn anew; test scenes come from another seed."""
    images, words, masks = zip(*(scene(generator) for _ in range(count)), strict=True)
    caption = torch.tensor([[*(CODE[w] for w in row), END] for row in words])
    truth = {"caption": caption, "masks": torch.stack(masks).float()}
    return TaskBatch((torch.stack(images),), truth, {"caption": list(words)})


def cells(masks: Tensor, grid: tuple[int, int]) -> Tensor:
    """Which cells of the attention's grid an object (B, 2, SIDE, SIDE) touches, as 0 or 1."""
    return (F.adaptive_avg_pool2d(masks, grid) > 0).float()


def measure(model: nn.Module, batch: TaskBatch) -> dict[str, float]:
    """Captions and words right; attention of colour and shape words on the object that they name.

    `on_other` is the attention on the other object, `on_object_chance` the share of the grid that
    the named object touches.
    """
    caption = batch.truth["caption"]
    out = model(*batch.inputs, caption)
    free = model(*batch.inputs).tokens
    width = max(free.shape[1], caption.shape[1])
    same = F.pad(free, (0, width - free.shape[1])) == F.pad(caption, (0, width - caption.shape[1]))
    touched = cells(batch.truth["masks"], size_of(out.attention))
    named = {1: 0, 2: 0, 5: 1, 6: 1}
    own = torch.stack([(out.attention[:, t] * touched[:, o]).sum((1, 2)) for t, o in named.items()])
    other = torch.stack(
        [(out.attention[:, t] * touched[:, 1 - o]).sum((1, 2)) for t, o in named.items()]
    )
    words = (out.logits.argmax(2) == caption)[:, list(named)]
    return {
        "accuracy": float(same.all(1).double().mean()),
        "word_accuracy": float(words.double().mean()),
        "on_object": float(own.mean()),
        "on_other": float(other.mean()),
        "on_object_chance": float(touched.mean()),
    }


TASKS = [
    Task(
        "captioning_hard" if hard else "captioning_soft",
        "Scenes of two shapes described in words; each word's map is on the object it names.",
        partial(HardCaptioner if hard else Captioner, len(WORDS) + 3, longest=10),
        sample,
        measure,
        {"accuracy": 0.8, "on_object": 0.6},
    )
    for hard in (False, True)
]
