"""A twenty-layer highway network on digits: which layers transform, and which only carry?"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from ..highway import HighwayClassifier
from .base import Batch, Task
from .canvas import draw_digits


def sample(count: int, generator: Generator, training: bool) -> Batch:
    """8 x 8 digits with a little noise."""
    digits, labels = draw_digits(count, generator, training)
    noise = 0.1 * torch.randn(digits.shape, generator=generator) if training else 0
    return Batch((digits + noise,), {"label": labels})


def loss(model: nn.Module, batch: Batch, generator: Generator) -> Tensor:
    """Cross-entropy of the class."""
    return F.cross_entropy(model(*batch.inputs).logits, batch.truth["label"])


def measure(model: HighwayClassifier, batch: Batch) -> dict[str, float]:
    """Accuracy whole, and with half of the layers forced to carry: the least and the most open."""
    label = batch.truth["label"]

    def right(closed: list[int]) -> float:
        logits = model(*batch.inputs, closed=frozenset(closed)).logits
        return float((logits.argmax(1) == label).double().mean())

    gates = model(*batch.inputs).gates
    order = gates.mean((0, 2)).argsort().tolist()
    half = len(order) // 2
    return {
        "accuracy": right([]),
        "mean_gate": float(gates.mean()),
        "open_gates": float((gates > 0.5).double().mean()),
        "accuracy_least_open_closed": right(order[:half]),
        "accuracy_most_open_closed": right(order[half:]),
    }


TASKS = [
    Task(
        "highway",
        "Digits through twenty gated layers; those whose gates stay shut can be left out.",
        HighwayClassifier,
        sample,
        loss,
        measure,
        {"accuracy": 0.85, "accuracy_least_open_closed": 0.7},
        steps=1500,
    )
]
