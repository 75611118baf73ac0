"""The moving parts of a guided training, and how they are set up and taken up again."""

from __future__ import annotations

import copy
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import limits
from ..data.identity import refuse_other
from ..errors import AttnvizError, DataError, GuidanceError
from ..hooks import find_layers, preserved
from . import checkpoints
from ._pass import forward_pass, make_loss
from .batches import batches, count_batches, is_map_style
from .changed import EXCHANGE, Exchanges, cuts_of
from .checkpoints import own_random_state
from .config import GuideConfig
from .guards import MassGuard
from .losses import LOSSES
from .optimisers import make_optimiser
from .pulling import Start
from .settling import choose_trained, rebuilt, resolve_config, split
from .survey import Survey, survey
from .tails import Features

#: exchanged images made at most, before they come again
MOST_POOLED = 1600


@dataclass
class Run:
    """The moving parts of a training.

    Attributes:
        config: the settings, with everything settled.
        model: what is stored and returned.
        module: what runs in training: the model, or its tail on features of the frozen part.
        modules: what is in training mode and in the checkpoint.
        data, pool: training examples and exchanged ones, as `module` takes them.
        known: what the data holds, None for a stream.
        look: (dataset) -> the dataset as `module` takes it.
        notes: what was settled, in words.
        start: the weights at the start, which those in training are pulled to.
        identity: what the run depends on beside its settings.
    """

    config: GuideConfig
    model: nn.Module
    module: nn.Module
    modules: dict[str, nn.Module]
    optimiser: torch.optim.Optimizer
    loss: Callable[..., Any] | None
    guard: MassGuard
    device: torch.device
    scaler: torch.amp.GradScaler
    start: Start
    data: Any = None
    pool: Any = None
    known: Survey | None = None
    look: Callable[[Any], Any] = lambda data: data
    notes: tuple[str, ...] = ()
    epoch: int = 0
    steps: int | None = None
    best: float = math.inf
    best_epoch: int = 0
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    alive: bool = False
    labels: set[int] = field(default_factory=set)
    annotated: int = 0
    identity: Mapping[str, str] = field(default_factory=dict)

    @property
    def epochs(self) -> int:
        """How many epochs there are at most, counted from the steps where nobody said."""
        assert self.config.epochs is not None  # the settings of a run are whole
        return self.config.epochs

    def progress(self, step: int) -> float:
        """Share of all training that is done, in [0, 1)."""
        inside = step / self.steps if self.steps else 0.0
        return (self.epoch + min(inside, 1.0)) / self.epochs

    @property
    def counts(self) -> bool:
        """Whether this epoch can be the best: guidance has had its full strength.

        By the answer the last third of training counts: a small split cannot tell apart what
        guidance has only begun to change, and the learning rate is still high before.
        """
        if self.loss is None or self.epoch >= self.epochs:
            return True
        whole = min(self.config.strength.warmup + self.config.strength.ramp, 1.0)
        if self.config.monitor == "answer":
            whole = max(whole, 2 / 3)
        return self.epoch / self.epochs >= whole

    def record(self) -> dict[str, Any]:
        """What `run.json` holds."""
        return {
            "config": self.config.as_dict(),
            "identity": dict(self.identity),
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

    def restore(self, record: Mapping[str, Any], best: dict[str, Tensor]) -> None:
        """Go on from `record`."""
        for name in ("epoch", "steps", "best_epoch", "annotated"):
            setattr(self, name, operator.index(record[name]))
        self.best = math.inf if record["best"] is None else float(record["best"])
        self.alive, self.labels = bool(record["alive"]), set(map(operator.index, record["labels"]))
        self.history = [dict(epoch) for epoch in record["history"]]
        self.guard.load(record["guard"])
        if record["scaler"]:
            self.scaler.load_state_dict(record["scaler"])
        # without weights of its own, the best epoch is the one that was stored
        self.best_weights = best or copy.deepcopy(self.model.state_dict())


def prepare(model: nn.Module, config: GuideConfig, data: Any) -> Run:
    """Settle what the settings leave open, and set up model, data and optimiser."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    steps = count_batches(data, config.batch_size)
    if steps == 0:
        raise DataError("the training data has no example")
    known = survey(data, degenerate=config.degenerate)
    if known is not None:  # otherwise it is known after the first epoch
        check_content(set(known.counts()), int(known.annotated.sum()), config)
    example = _example(data).to(device)
    model, config = rebuilt(model, config, example)
    config, notes = resolve_config(config, model, known, steps, example)
    for name in find_layers(model, list(config.freeze)) if config.freeze else ():
        model.get_submodule(name).requires_grad_(False)
    notes += choose_trained(model, config, example)
    cuts = None
    if config.exchange:
        wanted = {**EXCHANGE, **config.exchange_options}
        fills = [wanted["fill"]] if isinstance(wanted["fill"], str) else list(wanted["fill"])
        cuts = cuts_of(data, known, seed=config.seed, grow=wanted["grow"], fills=fills)
        if cuts is None:
            raise DataError(
                "exchange=True needs masks or boxes of objects of two classes in a dataset that "
                "can be indexed; annotate some images of another class, or leave exchange out "
                "(--no-exchange)"
            )
    pool = None
    if cuts is not None:
        count = min(config.exchanged * (steps or config.steps) * (config.epochs or 1), MOST_POOLED)
        pool = Exchanges(cuts, count, config.exchange_options, seed=config.seed)
        notes += (
            f"exchange: {config.exchanged} images beside each batch, of {count} made of "
            f"{int(cuts.real.sum())} annotated ones",
        )
    loss, extra = make_loss(model, config, data, device)
    module: nn.Module = model
    prefix = split(model, config, data, example)
    if prefix is not None:
        module = prefix.rest
        notes += (f"the frozen part before {prefix.boundary} is computed once an image",)

    def look(given: Any) -> Any:
        if prefix is None or not hasattr(given, "example"):
            return given
        return Features(given, prefix, bool(getattr(given, "flip", False)), device)

    seen, pool = look(data), None if pool is None else look(pool)
    run_loss = loss is not None or config.erasing is not None
    if run_loss and is_map_style(data):
        _try_out(module, config, seen, loss, device)
    start = Start(model, config)
    modules = {"model": model, **extra, **({"start": start} if start.used else {})}
    trainable = [p for m in modules.values() for p in m.parameters() if p.requires_grad]
    optimiser = make_optimiser(trainable, config)
    half = config.amp and device.type == "cuda"
    if half and hasattr(optimiser, "first_step"):
        raise GuidanceError("amp=True in float16 and optimizer='sam' do not go together")
    scaler = torch.amp.GradScaler(device.type, enabled=half)
    guard = MassGuard(config.guard)
    return Run(
        config, model, module, modules, optimiser, loss, guard, device, scaler, data=seen,
        pool=pool, known=known, look=look, notes=notes, start=start, steps=steps,
    )  # fmt: skip


def _example(data: Any) -> Tensor:
    """An image of the data, to see how the model runs."""
    if not is_map_style(data) and iter(data) is data:
        raise DataError(
            "the training data is an iterator, which would be used up after one epoch: give a "
            "list, a dataset, or an object whose __iter__ starts again"
        )
    with own_random_state(0):
        return next(batches(data, 1, degenerate="skip")).images


def _try_out(
    model: nn.Module, config: GuideConfig, data: Any, loss: Callable[..., Any] | None,
    device: torch.device,
) -> None:  # fmt: skip
    """Guide on the first examples and forget it: what cannot work is said now."""
    with own_random_state(config.seed), preserved(model):
        first = next(batches(data, min(config.batch_size, 2), degenerate="skip")).to(device)
        try:
            forward_pass(model, first, None, config, loss, 1.0, config.options_at(0.0))
        except (TypeError, ValueError) as error:
            if isinstance(error, AttnvizError):
                raise
            what = f"the loss {config.loss!r}" if loss else f"erasing {config.erasing!r}"
            raise GuidanceError(f"{what} cannot be computed: {error}") from error


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
    if "identity" in stored:
        with limits.reading(folder / "run.json"):
            refuse_other(stored["identity"], run.identity, folder)
    with limits.reading(folder / "run.json"):
        run.restore(*checkpoints.load_state(folder, run.modules, run.optimiser))
