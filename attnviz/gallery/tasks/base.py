"""What a task is: a model, data made afresh from a seed, and numbers to hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from torch import Generator, Tensor, nn

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class TaskBatch:
    """Examples of a task.

    Attributes:
        inputs: what the model is called with, batch first.
        truth: labels, masks and places that the loss and the numbers need.
        text: tokens for people, per example, by side ("source", "target", "caption", ...).
    """

    inputs: tuple[Tensor, ...]
    truth: Mapping[str, Tensor] = field(default_factory=dict)
    text: Mapping[str, list[Any]] = field(default_factory=dict)

    def take(self, index: Tensor) -> TaskBatch:
        """The examples with these numbers, in this order."""
        return TaskBatch(
            tuple(x[index] for x in self.inputs),
            {key: value[index] for key, value in self.truth.items()},
            {key: [value[i] for i in index.tolist()] for key, value in self.text.items()},
        )


@dataclass(frozen=True)
class Task(Generic[M]):
    """What one reference module does, and how it is judged.

    Attributes:
        name: what `load` calls it.
        says: one sentence: the data, and where attention should land.
        build: makes the untrained model.
        sample: (count, generator, training) -> Batch; training data and test data never overlap.
        measure: (model, batch) -> numbers, in [0, 1] unless the name says otherwise.
        holds: lower bounds that `measure` must reach on fresh test data.
    """

    name: str
    says: str
    build: Callable[[], M]
    sample: Callable[[int, Generator, bool], TaskBatch]
    measure: Callable[[M, TaskBatch], dict[str, float]]
    holds: Mapping[str, float]
