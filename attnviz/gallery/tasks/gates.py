"""A twenty-layer highway network on digits: which units transform, and which only carry?"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor

from ..modules.highway import HighwayClassifier
from .base import Task, TaskBatch
from .canvas import draw_digits

SHUT = 0.1


def sample(count: int, generator: Generator, training: bool) -> TaskBatch:
    """8 x 8 digits with a little noise."""
    digits, labels = draw_digits(count, generator, training)
    noise = 0.1 * torch.randn(digits.shape, generator=generator) if training else 0
    return TaskBatch((digits + noise,), {"label": labels})


def measure(model: HighwayClassifier, batch: TaskBatch) -> dict[str, float]:
    """Accuracy whole, with nearly shut gates shut (below 0.1), and with only the others shut."""
    label = batch.truth["label"]

    def right(keep: Callable[[Tensor], Tensor] | None) -> float:
        logits = model(*batch.inputs, keep=keep).logits
        return float((logits.argmax(1) == label).double().mean())

    gates = model(*batch.inputs).gates
    return {
        "accuracy": right(None),
        "mean_gate": float(gates.mean()),
        "nearly_shut": float((gates < SHUT).double().mean()),
        "accuracy_without_nearly_shut": right(lambda gate: gate >= SHUT),
        "accuracy_without_the_others": right(lambda gate: gate < SHUT),
    }


TASKS = [
    Task(
        "highway",
        "Digits through twenty gated layers; nearly all gates are shut, and the few others matter.",
        HighwayClassifier,
        sample,
        measure,
        {"accuracy": 0.85, "nearly_shut": 0.8, "accuracy_without_nearly_shut": 0.8},
    )
]
