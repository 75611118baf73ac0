"""What a metric returns: one value per image, its protocol, and which images were skipped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from ..errors import MetricError
from .protocol import Protocol, require_alike

_NONE: Mapping[str, Tensor] = MappingProxyType({})


@dataclass(frozen=True, eq=False, repr=False)
class Scores:
    """The values of one metric over a batch or a dataset.

    Attributes:
        values: (B,) one value per image; NaN where the image was skipped.
        protocol: the settings under which they were taken.
        reasons: per image why it was skipped, None where it counts.
        extra: further per-image tensors (B, ...) that belong beside the value, such as the
            prevalence of the mask beside the energy inside it.
    """

    values: Tensor
    protocol: Protocol
    reasons: tuple[str | None, ...] = ()
    extra: Mapping[str, Tensor] = field(default_factory=lambda: _NONE)

    def __post_init__(self) -> None:
        if not self.reasons:
            object.__setattr__(self, "reasons", (None,) * len(self.values))
        if len(self.reasons) != len(self.values):
            raise MetricError(f"{len(self.reasons)} reasons for {len(self.values)} values")

    @property
    def valid(self) -> Tensor:
        """(B,) True where the image counts."""
        return torch.tensor([r is None for r in self.reasons], device=self.values.device)

    @property
    def skipped(self) -> int:
        """How many images do not count."""
        return sum(r is not None for r in self.reasons)

    @property
    def skip_counts(self) -> dict[str, int]:
        """Reason -> how many images were skipped for it."""
        return dict(Counter(r for r in self.reasons if r is not None))

    def summary(self) -> float:
        """Return the metric over the images: the mean of those that count, NaN when none does."""
        kept = self.values[~self.values.isnan()].double()
        return float(kept.mean()) if len(kept) else float("nan")

    def replicates(self, index: Tensor) -> Tensor:
        """Return the summary of many redrawn sets of images at once, (R,) float64 on the CPU.

        Args:
            index: (R, n) images of each set, all of them ones that count.
        """
        return self.values.cpu().double()[index].mean(1)

    def __float__(self) -> float:
        return self.summary()

    def __len__(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        skipped = f", {self.skipped} skipped" if self.skipped else ""
        return f"{self.protocol} = {self.summary():.4g} ({len(self)} images{skipped})"

    @classmethod
    def join(cls, parts: Sequence[Scores]) -> Scores:
        """Return the results of several batches as one.

        Raises:
            MetricError: nothing to join, or unlike protocols.
        """
        protocol = require_alike(part.protocol for part in parts)
        return cls(
            torch.cat([part.values for part in parts]),
            protocol,
            tuple(reason for part in parts for reason in part.reasons),
            {key: torch.cat([part.extra[key] for part in parts]) for key in parts[0].extra},
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the result as JSON values; NaN becomes None."""
        return {
            "protocol": self.protocol.as_dict(),
            "summary": _number(self.summary()),
            "values": [_number(v) for v in self.values.tolist()],
            "skipped": list(self.reasons),
            "extra": {k: _numbers(v.tolist()) for k, v in self.extra.items()},
        }


@dataclass(frozen=True, eq=False, repr=False)
class Curve(Scores):
    """A score as a function of how much of the image was removed or shown.

    Attributes:
        fraction: (K + 1,) share of the substrate's cells removed (shown, for insertion), 0 to 1.
        scores: (B, K + 1) the model's score there; NaN in skipped rows.
    """

    fraction: Tensor = field(kw_only=True)
    scores: Tensor = field(kw_only=True)

    @property
    def auc(self) -> Tensor:
        """(B,) area under the curve, in units of the score: the `values`."""
        return self.values

    @classmethod
    def join(cls, parts: Sequence[Curve]) -> Curve:
        """Return the curves of several batches as one.

        Raises:
            MetricError: nothing to join, unlike protocols, or unlike fractions.
        """
        base = Scores.join(parts)
        first = parts[0].fraction
        for part in parts[1:]:
            # images of another size round the same fractions to other pixel counts
            if part.fraction.shape != first.shape or (part.fraction - first).abs().max() > 0.01:
                raise MetricError(
                    f"curves of {len(first)} and {len(part.fraction)} points, or at other "
                    "fractions, cannot be joined; use images of one size"
                )
        return cls(
            base.values,
            base.protocol,
            base.reasons,
            base.extra,
            fraction=first,
            scores=torch.cat([part.scores for part in parts]),
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the result as JSON values, the curve included."""
        return super().as_dict() | {
            "fraction": self.fraction.tolist(),
            "scores": _numbers(self.scores.tolist()),
        }


def _number(value: float) -> float | None:
    return value if value == value and abs(value) != float("inf") else None


def _numbers(values: Any) -> Any:
    return [_numbers(v) for v in values] if isinstance(values, list) else _number(values)


def scattered(rows: Tensor, index: Tensor, total: int) -> Tensor:
    """Return (total, ...) with `rows` at `index` and NaN elsewhere."""
    full = rows.new_full((total, *rows.shape[1:]), float("nan"))
    full[index] = rows
    return full
