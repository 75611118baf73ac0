"""Under which settings a number was taken, and the refusal to compare numbers of unlike settings.

A deletion score on a black baseline and one on a blurred baseline are two different quantities,
as are two of different step counts or score functions. So every result carries its protocol,
printed as `del[softmax, mean, 32 steps, pixel]`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import MetricError

#: how a score function is named in a protocol
SCORE_NAMES = {"probability": "softmax", "logit": "logit"}


@dataclass(frozen=True)
class Protocol:
    """The name of a metric and every setting that its value depends on.

    Attributes:
        metric: the metric's registered name.
        settings: (name, value) of each setting, as text.
        short: what is printed before the brackets.
        shown: what is printed inside the brackets; `settings` may hold more.
        higher_is_better: True, False, or None where neither is better.
    """

    metric: str
    settings: tuple[tuple[str, str], ...] = ()
    short: str = field(default="", compare=False)
    shown: tuple[str, ...] = field(default=(), compare=False)
    higher_is_better: bool | None = field(default=None, compare=False)

    @classmethod
    def of(
        cls,
        metric: str,
        *shown: str,
        short: str = "",
        higher_is_better: bool | None = None,
        **settings: Any,
    ) -> Protocol:
        """Return a protocol; settings may be numbers, texts, or sequences of them."""
        return cls(
            metric,
            tuple(sorted((name, _text(value)) for name, value in settings.items())),
            short or metric,
            tuple(shown),
            higher_is_better,
        )

    def __str__(self) -> str:
        return f"{self.short}[{', '.join(self.shown)}]" if self.shown else self.short

    def differences(self, other: Protocol) -> list[str]:
        """Return what differs, one phrase each: `baseline: mean, not blur`; empty when alike."""
        if self.metric != other.metric:
            return [f"metric: {self.metric}, not {other.metric}"]
        mine, theirs = dict(self.settings), dict(other.settings)
        return [
            f"{name}: {mine.get(name, 'unset')}, not {theirs.get(name, 'unset')}"
            for name in sorted({*mine, *theirs})
            if mine.get(name) != theirs.get(name)
        ]

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {
            "metric": self.metric,
            "text": str(self),
            "short": self.short,
            "shown": list(self.shown),
            "settings": dict(self.settings),
            "higher_is_better": self.higher_is_better,
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Protocol:
        """Return the protocol that `as_dict` wrote."""
        return cls(
            fields["metric"],
            tuple(sorted(fields["settings"].items())),
            fields["short"],
            tuple(fields["shown"]),
            fields["higher_is_better"],
        )


def _text(value: Any) -> str:
    if isinstance(value, tuple | list):
        return " ".join(_text(v) for v in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def require_alike(protocols: Iterable[Protocol]) -> Protocol:
    """Return the one protocol that all numbers were taken under.

    Raises:
        MetricError: there is none, or two differ; the message says in what.
    """
    found = list(protocols)
    if not found:
        raise MetricError("no results to compare; compute at least one")
    for other in found[1:]:
        unlike = found[0].differences(other)
        if unlike:
            raise MetricError(
                f"{found[0]} and {other} are not comparable ({'; '.join(unlike)}); compute both "
                "under one protocol"
            )
    return found[0]
