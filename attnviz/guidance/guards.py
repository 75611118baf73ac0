"""Collapse guards: when guidance acts, how strongly, and when it must stop.

A loss on the map alone is lowest when there is no map. Classification therefore comes first, the
guidance grows in, and the map's positive mass is watched.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ..errors import GuidanceError


@dataclass(frozen=True)
class Strength:
    """The weight of guidance over training: zero at first, then rising, then constant.

    Attributes:
        weight: the final factor.
        warmup: share of training in which the classification alone trains, in [0, 1].
        ramp: share of training over which the factor then grows linearly, in [0, 1].
    """

    weight: float = 1.0
    warmup: float = 0.35
    ramp: float = 0.15

    def __post_init__(self) -> None:
        if not (0 <= self.warmup <= 1 and 0 <= self.ramp <= 1) or self.weight < 0:
            raise GuidanceError(
                f"strength: weight {self.weight} is at least 0, warmup {self.warmup} and ramp "
                f"{self.ramp} are shares of training between 0 and 1"
            )

    def at(self, progress: float) -> float:
        """Return the factor at `progress` in [0, 1] of training."""
        if progress < self.warmup:
            return 0.0
        if self.ramp == 0:
            return self.weight
        return self.weight * min(1.0, (progress - self.warmup) / self.ramp)


@dataclass
class MassGuard:
    """Watches the positive mass of the maps and lowers or stops guidance before it dies.

    The reference is the mean mass before guidance acts. Below `low` times that the strength is
    halved (again after every `patience` steps that stay low); below `dead` times it for
    `patience` steps in a row training is aborted.

    Attributes:
        mode: "back_off" (halve, then abort), "abort" (abort only) or "off".
        low, dead: shares of the reference.
        patience: steps.
        smoothing: of the running mean of the mass, which batches make noisy.
    """

    mode: str = "back_off"
    low: float = 0.2
    dead: float = 0.02
    patience: int = 10
    smoothing: float = 0.9
    reference: float = 0.0
    counted: int = 0
    mean: float = 0.0
    factor: float = 1.0
    below: int = 0
    events: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.mode not in ("back_off", "abort", "off"):
            raise GuidanceError(f"mass guard {self.mode!r} is not 'back_off', 'abort' or 'off'")

    def step(self, mass: float, *, active: bool, where: str = "") -> float:
        """Take one step's mass and return the factor of the strength, in (0, 1].

        Args:
            mass: mean positive mass of the step's maps.
            active: guidance acts in this step (before it does, the reference is measured).
            where: the step's name in messages.

        Raises:
            GuidanceError: the mass is gone, or not a finite number.
        """
        if mass != mass or mass in (float("inf"), float("-inf")):
            raise GuidanceError(f"{where}: the map's mass is not finite")
        self.counted += 1
        if not active or (self.reference == 0.0 and self.counted == 1):
            # a running mean that forgets the first, untrained steps
            keep = self.smoothing if self.reference else 0.0
            self.reference = self.mean = keep * self.reference + (1 - keep) * mass
            return self.factor
        self.mean = self.smoothing * self.mean + (1 - self.smoothing) * mass
        if self.mode == "off" or self.reference <= 0:
            return self.factor
        share = self.mean / self.reference
        if share >= self.low:
            self.below = 0
            return self.factor
        self.below += 1
        if share < self.dead and self.below >= self.patience:
            raise GuidanceError(
                f"{where}: the map is dying: its positive mass fell to {share:.1%} of what it was "
                "before guidance. Use the abs or softplus form, a lower weight, or a longer warm-up"
            )
        if self.mode == "back_off" and self.below % self.patience == 0:
            self.factor *= 0.5
            self.events.append(f"{where}: mass at {share:.1%}, strength halved to {self.factor:g}")
        return self.factor

    def state(self) -> dict:
        """Return the guard's memory as JSON values."""
        names = ("reference", "counted", "mean", "factor", "below", "events")
        return {n: list(v) if isinstance(v := getattr(self, n), list) else v for n in names}

    def load(self, state: dict) -> None:
        """Take over what `state` returned."""
        for name, own in self.state().items():
            value = state[name]
            if isinstance(own, list) != isinstance(value, list) or isinstance(value, str | dict):
                raise TypeError(f"{name!r} of the guard is {value!r:.40}")
            setattr(self, name, list(value) if isinstance(value, list) else value)
