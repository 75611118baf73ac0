"""The trained references: by name, ready to be read."""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

import torch
from torch import nn

from ...errors import ModelError, did_you_mean
from ..tasks.base import Task, TaskBatch
from .files import restored

FAMILIES = (
    "rotated",
    "cluttered",
    "dates",
    "phrases",
    "documents",
    "scenes",
    "regions",
    "clips",
    "gates",
)


@cache
def tasks() -> dict[str, Task]:
    """Every task by name, in the order of the families."""
    modules = [importlib.import_module(f"attnviz.gallery.tasks.{f}") for f in FAMILIES]
    return {task.name: task for module in modules for task in module.TASKS}


def names() -> list[str]:
    """Names that `load` and `sample` know."""
    return list(tasks())


def task(name: str) -> Task:
    """The task of a reference; an unknown name raises ModelError with the nearest ones."""
    known = tasks()
    if name not in known:
        raise ModelError(
            f"reference {name!r} is not known{did_you_mean(name, known) or '.'} "
            f"Known: {', '.join(known)}"
        )
    return known[name]


def load(name: str) -> Any:
    """Return a trained reference module, in eval mode, float32, on the CPU.

    Args:
        name: one of `names()`, such as "stn", "ram", "bahdanau" or "captioning_soft".

    Raises:
        ModelError: the name is not known.
        EnvironmentFault: its weights are not installed.

    Example:
        >>> from attnviz.gallery import modules as reference
        >>> model = reference.load("stn")
        >>> batch = reference.sample("stn", 4)
        >>> model(*batch.inputs).theta.shape
        torch.Size([4, 2, 3])
    """
    return restored(name, task(name).build)


def sample(name: str, count: int = 8, *, seed: int = 0, training: bool = False) -> TaskBatch:
    """Draw examples of a reference's task.

    Args:
        name: as in `load`.
        count: how many.
        seed: same seed, same examples.
        training: from the training side of the split instead of the test side.

    Returns:
        Batch: `model(*batch.inputs)` runs it; `truth` and `text` say what is in it.
    """
    # test seeds are kept apart from the training run's own stream of draws
    generator = torch.Generator().manual_seed(seed if training else seed + 1_000_003)
    return task(name).sample(count, generator, training)


def measure(name: str, model: nn.Module | None = None, *, count: int = 500, seed: int = 0) -> dict:
    """Measure a reference on freshly drawn test examples.

    Args:
        name: as in `load`.
        model: the module to judge; None loads the trained one.
        count: examples.
        seed: of the examples.

    Returns:
        The task's numbers, by name.
    """
    model = load(name) if model is None else model
    with torch.no_grad():
        return task(name).measure(model, sample(name, count, seed=seed))
