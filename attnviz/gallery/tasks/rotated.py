"""Spatial transformer on turned, scaled and moved digits: does theta undo what was done?"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor, nn

from ..modules.spatial_transformer import STNClassifier, make_theta, read_theta
from .base import Task, TaskBatch
from .canvas import draw_digits, place, uniform

SIDE = 32


def sample(count: int, generator: Generator, training: bool) -> TaskBatch:
    """Digits turned by up to 60 degrees, 0.5 to 0.8 of the canvas wide, moved by up to 4 pixels."""
    digits, labels = draw_digits(count, generator, training)
    angle = uniform(count, -math.pi / 3, math.pi / 3, generator)
    size = uniform(count, 0.5, 0.8, generator)
    shift = torch.stack([uniform(count, -0.25, 0.25, generator) for _ in range(2)], 1)
    theta = make_theta(angle, translation=shift, scale=size[:, None].expand(-1, 2))
    image = place(digits, theta, SIDE)
    return TaskBatch((image,), {"label": labels, "theta": theta})


def correlation(a: Tensor, b: Tensor) -> float:
    """Pearson's correlation of two vectors."""
    return float(torch.corrcoef(torch.stack((a.double(), b.double())))[0, 1])


def measure(model: nn.Module, batch: TaskBatch) -> dict[str, float]:
    """Accuracy, and how theta's parts follow the true ones.

    `turn_left_degrees` is the spread (standard deviation) of the digits' angle after the
    transformer, `turn_before_degrees` the one before.
    """
    out = model(*batch.inputs)
    seen, true = read_theta(out.theta), read_theta(batch.truth["theta"])
    left = true.rotation - seen.rotation
    shifts = [correlation(seen.translation[:, k], true.translation[:, k]) for k in (0, 1)]
    return {
        "accuracy": float((out.logits.argmax(1) == batch.truth["label"]).double().mean()),
        "rotation_correlation": correlation(seen.rotation, true.rotation),
        "translation_correlation": min(shifts),
        "scale_correlation": correlation(seen.scale.mean(1), true.scale.mean(1)),
        "turn_left_degrees": math.degrees(float(left.std())),
        "turn_before_degrees": math.degrees(float(true.rotation.std())),
    }


TASKS = [
    Task(
        "stn",
        "Digits turned, scaled and moved; theta undoes it before a linear classifier reads them.",
        lambda: STNClassifier(side=SIDE),
        sample,
        measure,
        {"accuracy": 0.85, "rotation_correlation": 0.9},
    )
]
