"""The moving parts of a guided training, and how they are set up and taken up again."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import AttnvizError, DataError, GuidanceError
from ..hooks import find_layers, preserved
from . import checkpoints
from ._pass import forward_pass, make_loss
from .batches import batches, count_batches, is_map_style
from .config import GuideConfig
from .examples import Examples
from .guards import MassGuard
from .losses import LOSSES
from .optimisers import make_optimiser


@dataclass
class Run:
    """The moving parts of a training."""

    config: GuideConfig
    model: nn.Module
    modules: dict[str, nn.Module]
    optimiser: torch.optim.Optimizer
    loss: Callable[..., Any] | None
    guard: MassGuard
    device: torch.device
    scaler: torch.amp.GradScaler
    epoch: int = 0
    steps: int | None = None
    best: float = math.inf
    best_epoch: int = 0
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    alive: bool = False
    labels: set[int] = field(default_factory=set)
    annotated: int = 0

    def progress(self, step: int) -> float:
        """Share of all training that is done, in [0, 1)."""
        inside = step / self.steps if self.steps else 0.0
        return (self.epoch + min(inside, 1.0)) / self.config.epochs

    @property
    def counts(self) -> bool:
        """Whether guidance has its full strength: epochs before it cannot be the best."""
        whole = self.config.strength.warmup + self.config.strength.ramp
        last = self.epoch >= self.config.epochs
        return self.loss is None or last or self.epoch / self.config.epochs >= min(whole, 1.0)

    def record(self) -> dict[str, Any]:
        """What `run.json` holds."""
        return {
            "config": self.config.as_dict(),
            "epoch": self.epoch,
            "steps": self.steps,
            "best": None if math.isinf(self.best) else self.best,
            "best_epoch": self.best_epoch,
            "alive": self.alive,
            "labels": sorted(self.labels),
            "annotated": self.annotated,
            "guard": self.guard.state(),
            "scaler": self.scaler.state_dict(),
            "history": self.history,
        }

    def take_over(self, record: Mapping[str, Any], best: dict[str, Tensor]) -> None:
        """Go on from `record`."""
        self.epoch, self.steps = record["epoch"], record["steps"]
        self.best = math.inf if record["best"] is None else record["best"]
        self.best_epoch, self.alive = record["best_epoch"], record["alive"]
        self.labels, self.annotated = set(record["labels"]), record["annotated"]
        self.history = list(record["history"])
        self.guard.load(record["guard"])
        if record["scaler"]:
            self.scaler.load_state_dict(record["scaler"])
        # without weights of its own, the best epoch is the one that was stored
        self.best_weights = best or copy.deepcopy(self.model.state_dict())


@contextlib.contextmanager
def own_random_state(seed: int) -> Iterator[None]:
    """Seed torch, numpy and Python inside the block; afterwards their states are as before."""
    import random

    import numpy as np

    kept = checkpoints.pack_random()
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
    try:
        yield
    finally:
        checkpoints.unpack_random(*kept)


def prepare(model: nn.Module, config: GuideConfig, data: Any) -> Run:
    for name in find_layers(model, list(config.freeze)) if config.freeze else ():
        model.get_submodule(name).requires_grad_(False)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    steps = count_batches(data, config.batch_size)
    if steps == 0:
        raise DataError("the training data has no example")
    if isinstance(data, Examples):  # which knows beforehand what it holds
        check_content(set(data.labels), len(data) - data.counts()["none"], config)
    loss, extra = make_loss(model, config, data, device)
    if loss is not None and is_map_style(data):
        _try_out(model, config, data, loss, device)
    modules = {"model": model, **extra}
    trainable = [p for m in modules.values() for p in m.parameters() if p.requires_grad]
    optimiser = make_optimiser(trainable, config)
    half = config.amp and device.type == "cuda"
    if half and hasattr(optimiser, "first_step"):
        raise GuidanceError("amp=True in float16 and optimizer='sam' do not go together")
    scaler = torch.amp.GradScaler(device.type, enabled=half)
    guard = MassGuard(config.guard)
    return Run(config, model, modules, optimiser, loss, guard, device, scaler, steps=steps)


def _try_out(
    model: nn.Module, config: GuideConfig, data: Any, loss: Callable[..., Any], device: torch.device
) -> None:
    """Guide on the first examples and forget it: what cannot work is said now."""
    with own_random_state(config.seed), preserved(model):
        first = next(batches(data, min(config.batch_size, 2), degenerate="skip")).to(device)
        try:
            forward_pass(model, first, config, loss, 1.0, config.options_at(0.0))
        except (TypeError, ValueError) as error:
            if isinstance(error, AttnvizError):
                raise
            raise GuidanceError(f"the loss {config.loss!r} cannot be computed: {error}") from error


def check_content(labels: set[int], annotated: int, config: GuideConfig) -> None:
    """Refuse examples that nothing can be learned from.

    Raises:
        DataError: a single class; nothing annotated, and a loss that needs it.
    """
    if len(labels) == 1:
        raise DataError(
            f"every training example has label {next(iter(labels))}: a classifier needs at "
            "least two classes, and guidance a class that the object sets apart"
        )
    if config.loss != "none" and LOSSES.get(config.loss).meta["annotated"] and not annotated:
        raise DataError(
            f"no training example is annotated, and the loss {config.loss!r} reads masks or "
            "boxes: give them (--masks, --boxes), or use a loss without annotation "
            f"({', '.join(e.name for e in LOSSES if not e.meta['annotated'])}), or loss='none'"
        )


def resume_run(run: Run, folder: Path) -> None:
    stored = checkpoints.read_run(folder)
    changed = run.config.differences(stored["config"])
    if changed:
        raise GuidanceError(
            f"the run in {str(folder)!r} has other settings: "
            + ", ".join(f"{n} {stored['config'].get(n)!r}" for n in changed)
            + "; resume with the same ones, or start over with force=True"
        )
    run.take_over(*checkpoints.load_state(folder, run.modules, run.optimiser))
