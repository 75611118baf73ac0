"""What a guided training is set to: everything that is needed to run it again."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from ..erasing import SCHEMES, ACoL, cascade, cut_and_mix, hide_cells
from ..errors import GuidanceError, did_you_mean
from .changed import EXCHANGE
from .class_maps import differentiable
from .guards import MassGuard, Strength
from .losses import LOSSES, option_names
from .pooling import POOLINGS
from .tails import TRAINED

SCHEDULES = ("onecycle", "cosine", "constant")
MONITORS = ("answer", "loss", "accuracy", "worst_class", "outside")
#: erasing that is no loss of one network on one batch: a module with two heads, a loop of trainings
ERASING_MORE = ("acol", "cascade")


_OPTIONS = ("loss_options", "exchange_options", "erasing_options", "pooling_options")


def scheme_options(kind: str, name: str) -> list[str]:
    """Return the options of an erasing scheme or a pooling.

    Raises:
        MethodError, GuidanceError: an unknown name, with the nearest.
    """
    fn: Any
    if kind == "pooling":
        fn = POOLINGS.get(name).fn.__init__
        wanted = inspect.Parameter.POSITIONAL_OR_KEYWORD
        leave = {"self", "channels"}
    elif name in ERASING_MORE:
        fn, leave = (
            (ACoL, set()) if name == "acol" else (cascade, {"method", "layer", "batch_size"})
        )
        wanted = inspect.Parameter.KEYWORD_ONLY
    else:
        known = [*SCHEMES.names(), *ERASING_MORE]
        if name not in SCHEMES:
            raise GuidanceError(
                f"erasing {name!r} is not known{did_you_mean(name, known) or '.'} Known: "
                f"{', '.join(known)}"
            )
        entry = SCHEMES.get(name)
        # two hand their options on
        fn = {"has": hide_cells, "cutmix": cut_and_mix}.get(entry.name, entry.fn)
        wanted, leave = inspect.Parameter.KEYWORD_ONLY, set()
    plain = inspect.signature(fn).parameters.values()
    return [p.name for p in plain if p.kind is wanted and p.name not in {*leave, "generator"}]


@dataclass(frozen=True)
class GuideConfig:
    """Settings of `fit`; JSON values throughout, so that a checkpoint holds them.

    What is None is settled before training by what the data holds, and said in the result's notes.

    Attributes:
        loss: name of a guidance loss; "none" trains the classification alone.
        loss_options: its options. A pair (start, end) of numbers is annealed over training, such
            as {"steepness": (10, 40)}.
        weight: the guidance loss's final factor; None is 30 where objects of two classes are
            annotated and can be exchanged and the tail is trained; 1 where only one class is, whose
            map alone is then held and the others pay for it, where nothing is exchanged, or where
            all of the network is trained.
        warmup, ramp: see `Strength`.
        guard: see `MassGuard`.
        exchange: put objects of annotated images in front of other classes' grounds, see
            `exchange`; None does where there are masks or boxes of two classes (or of an object,
            and images without it) and a guidance loss.
        exchanged: such images beside each batch.
        exchange_weight: weight of their cross-entropy.
        exchange_options: place, scale, flip, grow, edge, fill (one or several of
            `erasing.FILLS`), jitter and alone, see `Exchanges`.
        erasing: a scheme of `erasing.SCHEMES` in place of plain cross-entropy, "acol" (two
            classifiers) or "cascade" (trained again on what the last training did not see).
        erasing_options: its options; "layer" among them for schemes inside the network.
        pooling: of `guidance.POOLINGS`: the linear head is applied at every position, and the
            scores pooled; None keeps the network's own.
        pooling_options: its options.
        train: "tail" (the stage of the map's layer and all behind it), "all", or "head".
        label_smoothing: share of the answer that goes to all classes alike, in [0, 1); None is .1
            with exchange, else 0.
        pull: decoupled decay towards the weights at the start, of all but the last layer; None is
            .3 for the tail, else 0.
        keep: share of the way from the start to the trained weights that is kept, all but the last
            layer's (Wortsman et al. 2022, arXiv:2109.01903); None is .7 for the tail with exchange,
            else 1.
        balanced: draw the classes equally often; None does where the largest has half as many
            images again as the smallest, or more.
        annotated: share of each batch drawn from the annotated images, where fewer are.
        cache: compute the frozen part once an image: None where that changes nothing, True also
            for losses that erase (in features then, not in pixels), False never.
        layer: dotted name or names; None is the model's default layer, of a map of attention all
            layers.
        against: what the class is set against in the map, see `class_map`; losses that mine for
            one class (GAIN) take its own map whatever this says.
        method: the map that is trained: a CAM or a map of attention, see `class_map`.
        epochs: passes over the data; None takes as many as make `steps`.
        steps: of the optimiser, where `epochs` is None.
        batch_size: images of a batch; the last may be smaller.
        accumulate: batches whose gradients are added up for one step.
        optimizer: "sgd", "adam", "adamw" or "sam" (sharpness-aware; needs `pytorch-optimizer`).
        lr, weight_decay, momentum, rho: its settings (momentum for sgd, rho for sam).
        schedule: "onecycle", "cosine" or "constant".
        clip: largest gradient norm, None leaves it.
        amp: half-precision autocast (bfloat16 on CPU); maps and losses stay in float32.
        batchnorm: "train" moves its statistics, "eval" keeps the given ones throughout; None
            moves them where all is trained. What is frozen runs in evaluation mode either way.
        freeze: names of modules that are not trained, whatever `train` says.
        monitor: what the validation split decides on: "answer" (the worst class, on the split as
            it is and with objects exchanged), "loss", "accuracy", "worst_class", "outside" (the
            share of the evidence off the object).
        patience: epochs without improvement after which training stops; None never stops.
        degenerate: empty or full masks: "error" or "skip", see `annotate`.
        seed: of order, dropout, fills and exchange.
    """

    loss: str = "energy"
    loss_options: Mapping[str, Any] = field(default_factory=dict)
    weight: float | None = None
    warmup: float = 0.3
    ramp: float = 0.1
    guard: str = "back_off"
    exchange: bool | None = None
    exchanged: int = 12
    exchange_weight: float = 0.5
    exchange_options: Mapping[str, Any] = field(default_factory=dict)
    erasing: str | None = None
    erasing_options: Mapping[str, Any] = field(default_factory=dict)
    pooling: str | None = None
    pooling_options: Mapping[str, Any] = field(default_factory=dict)
    train: str = "tail"
    label_smoothing: float | None = None
    pull: float | None = None
    keep: float | None = None
    balanced: bool | None = None
    annotated: float = 0.375
    cache: bool | None = None
    layer: Any = None
    against: str | None = "strongest"
    method: str = "gradcam"
    epochs: int | None = None
    steps: int = 400
    batch_size: int = 16
    accumulate: int = 1
    optimizer: str = "adamw"
    lr: float = 1e-3
    weight_decay: float = 1e-2
    momentum: float = 0.9
    rho: float = 0.05
    schedule: str = "onecycle"
    clip: float | None = None
    amp: bool = False
    batchnorm: str | None = None
    freeze: tuple[str, ...] = ()
    monitor: str = "answer"
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
                        f"the loss {self.loss!r} has no option {name!r}"
                        f"{did_you_mean(name, known) or '.'} It has: {', '.join(known) or 'none'}"
                    )
        elif self.loss_options:
            raise GuidanceError("loss='none' has no options")
        differentiable(self.method)
        Strength(self.weight or 0.0, self.warmup, self.ramp)
        MassGuard(self.guard)
        for name, least in (
            ("epochs", 1), ("steps", 1), ("batch_size", 1), ("accumulate", 1), ("exchanged", 1),
        ):  # fmt: skip
            value = getattr(self, name)
            if value is None and name == "epochs":
                continue
            if not isinstance(value, int) or value < least:
                raise GuidanceError(f"{name} is a whole number of at least {least}, got {value!r}")
        for name in ("erasing", "pooling", "exchange"):
            self._check_options(name)
        if not 0 <= self.annotated <= 1 or self.exchange_weight < 0:
            raise GuidanceError(
                f"annotated is a share of a batch from 0 to 1, got {self.annotated}; "
                f"exchange_weight is at least 0, got {self.exchange_weight}"
            )
        for name, most in (("label_smoothing", 0.999), ("pull", math.inf), ("keep", 1.0)):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= most:
                raise GuidanceError(f"{name} is a number from 0 to {most:g}, got {value!r}")
        if not 0 < self.lr < math.inf:
            raise GuidanceError(f"lr is a positive number, got {self.lr!r}")
        for name, known in (
            ("schedule", SCHEDULES), ("monitor", MONITORS), ("batchnorm", ("train", "eval", None)),
            ("train", TRAINED), ("degenerate", ("error", "skip")),
        ):  # fmt: skip
            if getattr(self, name) not in known:
                raise GuidanceError(
                    f"{name}={getattr(self, name)!r} is not one of {', '.join(map(repr, known))}"
                )
        if self.patience is not None and self.patience < 1:
            raise GuidanceError(f"patience counts epochs, at least 1, got {self.patience}")
        object.__setattr__(self, "freeze", tuple(self.freeze))

    def _check_options(self, name: str) -> None:
        chosen, given = getattr(self, name), dict(getattr(self, f"{name}_options"))
        if name == "exchange":
            known = list(EXCHANGE)
        elif chosen is None:
            known = []
        else:
            known = scheme_options(name, chosen)
        for option in given:
            if option not in known:
                what = f"{name}={chosen!r}" if chosen else name
                raise GuidanceError(
                    f"{what} has no option {option!r}{did_you_mean(option, known) or '.'} It has: "
                    f"{', '.join(known) or 'none'}"
                )

    @property
    def strength(self) -> Strength:
        """The weight of guidance over training."""
        return Strength(self.weight or 0.0, self.warmup, self.ramp)

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
            **{n: dict(getattr(self, n)) for n in _OPTIONS},
            "layer": list(self.layer) if isinstance(self.layer, tuple) else self.layer,
        }

    def differences(self, other: Mapping[str, Any]) -> list[str]:
        """Return the names of settings that differ from those stored in a checkpoint."""
        import json

        own = json.loads(json.dumps(self.as_dict()))
        return [f.name for f in fields(self) if own[f.name] != other.get(f.name, own[f.name])]
