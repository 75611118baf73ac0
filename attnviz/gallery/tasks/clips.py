"""Clips of eight digits of which one is underlined: is attention on the underlined frame?"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, nn

from ..modules.temporal import ClipClassifier
from .base import Task, TaskBatch
from .canvas import draw_digits

FRAMES, SIDE = 8, 16


def sample(count: int, generator: Generator, training: bool) -> TaskBatch:
    """Eight noisy 16-pixel frames; the class is that of the digit over the bar."""
    digits, labels = draw_digits(count * FRAMES, generator, training)
    small = F.interpolate(digits, size=(12, 12), mode="bilinear", align_corners=False)
    clip = F.pad(small, (2, 2, 1, 3)).view(count, FRAMES, 1, SIDE, SIDE).clone()
    marked = torch.randint(FRAMES, (count,), generator=generator)
    rows = torch.arange(count)
    clip[rows, marked, :, SIDE - 2, 3 : SIDE - 3] = 0.8
    clip = clip + 0.15 * torch.randn(clip.shape, generator=generator)
    return TaskBatch((clip,), {"label": labels.view(count, FRAMES)[rows, marked], "marked": marked})


def measure(model: nn.Module, batch: TaskBatch) -> dict[str, float]:
    """Accuracy, and attention on the underlined frame."""
    out = model(*batch.inputs)
    marked = batch.truth["marked"]
    return {
        "accuracy": float((out.logits.argmax(1) == batch.truth["label"]).double().mean()),
        "on_marked": float(out.attention.gather(1, marked[:, None]).mean()),
        "marked_first": float((out.attention.argmax(1) == marked).double().mean()),
        "on_marked_chance": 1 / FRAMES,
    }


TASKS = [
    Task(
        "temporal",
        "Clips of eight digits, one underlined; attention over time is on that frame.",
        lambda: ClipClassifier(side=SIDE),
        sample,
        measure,
        {"accuracy": 0.85, "on_marked": 0.8},
    )
]
