"""What a self-test finds, and how it is said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

HOLDS, FAILS, NOT_HERE = "holds", "fails", "does not apply"


@dataclass(frozen=True)
class Finding:
    """One statement, tested.

    Attributes:
        name: what should hold.
        verdict: "holds", "fails" or "does not apply".
        words: what was measured, and the reason where it does not hold.
        numbers: what was measured, as JSON values.
        gate: the model or method is not to be trusted where this fails. An identity that fails is
            a fact about the architecture, no fault.
    """

    name: str
    verdict: str
    words: str
    numbers: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    gate: bool = False

    def line(self) -> str:
        """Return the finding in one line."""
        return f"{self.name}: {self.verdict} ({self.words})"

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {
            "name": self.name,
            "verdict": self.verdict,
            "words": self.words,
            "numbers": dict(self.numbers),
            "gate": self.gate,
        }


@dataclass(frozen=True)
class MethodFinding:
    """What a method is worth on this model.

    Attributes:
        name: the method.
        verdict: "exact", "approximate", "meaningless" or "does not apply".
        words: why.
        random_network: rank correlation of its maps with those of random networks; None where
            it was not measured.
        other_class: the same with its maps of another class.
    """

    name: str
    verdict: str
    words: str
    random_network: float | None = None
    other_class: float | None = None

    def line(self) -> str:
        """Return the finding in one line."""
        return f"{self.name}: {self.verdict} ({self.words})"

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return dict(vars(self))


@dataclass(frozen=True)
class Report:
    """A self-test's result.

    Attributes:
        model: the model's name.
        layer: the layer that was tested.
        findings: identities and gates.
        methods: what each method is worth here.
    """

    model: str
    layer: str
    findings: tuple[Finding, ...]
    methods: tuple[MethodFinding, ...]

    @property
    def passed(self) -> bool:
        """Whether every gate holds."""
        return not any(f.gate and f.verdict == FAILS for f in self.findings)

    def lines(self) -> list[str]:
        """Return the report as lines of text."""
        found = [f"{self.model}, layer {self.layer}", "", "identities"]
        found += [f"  {f.line()}" for f in self.findings if not f.gate]
        found += ["", "gates"]
        found += [f"  {f.line()}" for f in self.findings if f.gate]
        found += ["", "methods"]
        return found + [f"  {m.line()}" for m in self.methods]

    def as_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {
            "model": self.model,
            "layer": self.layer,
            "passed": self.passed,
            "findings": [f.as_dict() for f in self.findings],
            "methods": [m.as_dict() for m in self.methods],
        }
