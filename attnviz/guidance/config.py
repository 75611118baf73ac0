"""What a guided training is set to: everything that is needed to run it again."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from ..errors import GuidanceError, did_you_mean
from .guards import MassGuard, Strength
from .losses import LOSSES, option_names

SCHEDULES = ("onecycle", "cosine", "constant")
MONITORS = ("loss", "accuracy", "worst_class", "outside")


@dataclass(frozen=True)
class GuideConfig:
    """Settings of `fit`; JSON values throughout, so that a checkpoint holds them.

    Attributes:
        loss: name of a guidance loss; "none" trains the classification alone.
        loss_options: its options. A pair (start, end) of numbers is annealed over training, such
            as {"steepness": (10, 40)}.
        weight, warmup, ramp: see `Strength`.
        guard: see `MassGuard`.
        layer: dotted name or names; None is the model's default layer.
        against: what the class is set against in the map, see `class_map`; losses that mine for
            one class (GAIN) take its own map whatever this says.
        method: the CAM that is trained.
        epochs, batch_size: batches are `batch_size` images; the last may be smaller.
        accumulate: batches whose gradients are added up for one step.
        optimizer: "sgd", "adam", "adamw" or "sam" (sharpness-aware; needs `pytorch-optimizer`).
        lr, weight_decay, momentum, rho: its settings (momentum for sgd, rho for sam).
        schedule: "onecycle", "cosine" or "constant".
        clip: largest gradient norm, None leaves it.
        amp: half-precision autocast (bfloat16 on CPU); maps and losses stay in float32.
        batchnorm: "train" moves its statistics, "eval" keeps the given ones throughout.
        freeze: names of modules that are not trained.
        monitor: what the validation split decides on: "loss", "accuracy", "worst_class" (the
            lowest of the classes' accuracies), "outside" (the guidance loss).
        patience: epochs without improvement after which training stops; None never stops.
        degenerate: empty or full masks: "error" or "skip", see `annotate`.
        seed: of order, dropout and fills.
    """

    loss: str = "energy"
    loss_options: Mapping[str, Any] = field(default_factory=dict)
    weight: float = 1.0
    warmup: float = 0.35
    ramp: float = 0.15
    guard: str = "back_off"
    layer: Any = None
    against: str | None = "strongest"
    method: str = "gradcam"
    epochs: int = 10
    batch_size: int = 16
    accumulate: int = 1
    optimizer: str = "adamw"
    lr: float = 3e-4
    weight_decay: float = 1e-2
    momentum: float = 0.9
    rho: float = 0.05
    schedule: str = "onecycle"
    clip: float | None = None
    amp: bool = False
    batchnorm: str = "train"
    freeze: tuple[str, ...] = ()
    monitor: str = "loss"
    patience: int | None = None
    degenerate: str = "error"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.loss != "none":
            LOSSES.get(self.loss)  # an unknown one says the nearest
            known = option_names(self.loss)
            for name in self.loss_options:
                if name not in known:
                    raise GuidanceError(
                        f"the loss {self.loss!r} has no option {name!r}{did_you_mean(name, known)} "
                        f"It has: {', '.join(known) or 'none'}"
                    )
        elif self.loss_options:
            raise GuidanceError("loss='none' has no options")
        Strength(self.weight, self.warmup, self.ramp)
        MassGuard(self.guard)
        for name, least in (("epochs", 1), ("batch_size", 1), ("accumulate", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise GuidanceError(f"{name} is a whole number of at least {least}, got {value!r}")
        if not 0 < self.lr < math.inf:
            raise GuidanceError(f"lr is a positive number, got {self.lr!r}")
        for name, known in (
            ("schedule", SCHEDULES), ("monitor", MONITORS), ("batchnorm", ("train", "eval")),
            ("degenerate", ("error", "skip")),
        ):  # fmt: skip
            if getattr(self, name) not in known:
                raise GuidanceError(
                    f"{name}={getattr(self, name)!r} is not one of {', '.join(map(repr, known))}"
                )
        if self.patience is not None and self.patience < 1:
            raise GuidanceError(f"patience counts epochs, at least 1, got {self.patience}")
        object.__setattr__(self, "freeze", tuple(self.freeze))

    @property
    def strength(self) -> Strength:
        """The weight of guidance over training."""
        return Strength(self.weight, self.warmup, self.ramp)

    def options_at(self, progress: float) -> dict[str, Any]:
        """Return the loss's options at `progress` in [0, 1], pairs of numbers annealed."""
        found = {}
        for name, value in self.loss_options.items():
            pair = isinstance(value, list | tuple) and len(value) == 2
            if pair and all(isinstance(v, int | float) for v in value) and name != "only":
                value = value[0] + (value[1] - value[0]) * progress
            found[name] = value
        return found

    def lr_at(self, progress: float) -> float:
        """Return the learning rate at `progress` in [0, 1]."""
        if self.schedule == "constant":
            return self.lr
        if self.schedule == "onecycle":
            if progress < 0.3:  # up from a 25th, then down to nothing, both as a cosine
                return self.lr * (0.04 + 0.96 * 0.5 * (1 - math.cos(math.pi * progress / 0.3)))
            progress = (progress - 0.3) / 0.7
        return self.lr * max(1e-4, 0.5 * (1 + math.cos(math.pi * progress)))

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as JSON values."""
        return asdict(self) | {
            "freeze": list(self.freeze),
            "loss_options": dict(self.loss_options),
            "layer": list(self.layer) if isinstance(self.layer, tuple) else self.layer,
        }

    def differences(self, other: Mapping[str, Any]) -> list[str]:
        """Return the names of settings that differ from those stored in a checkpoint."""
        import json

        own = json.loads(json.dumps(self.as_dict()))
        return [f.name for f in fields(self) if own[f.name] != other.get(f.name, own[f.name])]
