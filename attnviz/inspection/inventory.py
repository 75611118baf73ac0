"""`inspect`: the inventory of a model's attention mechanisms."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..attention.tap import tap
from ..errors import AttnvizError, ModelError
from ..hooks import eager, preserved, unwrap
from .classify import of_all, time_steps
from .cost import flops, parameters
from .mechanism import Mechanism
from .moving import watch

SCHEMA = 1


@dataclass(frozen=True, eq=False, repr=False)
class Inventory:
    """The attention mechanisms of a model, in the order in which they ran.

    Attributes:
        entries: the mechanisms.
        model: the model's name.
        parameters: of the whole model.
        flops: of one forward pass of the example.
        missed: what looks like attention and could not be read, and why.
    """

    entries: tuple[Mechanism, ...]
    model: str
    parameters: int
    flops: int | None
    missed: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Mechanism]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Mechanism:
        return self.entries[index]

    def __repr__(self) -> str:
        kinds = Counter(entry.kind for entry in self.entries)
        what = ", ".join(f"{n} {kind}" for kind, n in kinds.items()) or "none"
        return f"Inventory({self.model}: {what})"

    def of_kind(self, kind: str) -> tuple[Mechanism, ...]:
        """Return the entries of one kind."""
        return tuple(entry for entry in self.entries if entry.kind == kind)

    def table(self) -> list[list[str]]:
        """Return one row of text a mechanism: name, kind, mechanism, attends, shape, shares."""
        return [
            [
                entry.name or "(model)",
                entry.kind,
                entry.mechanism,
                entry.attends,
                " x ".join(map(str, entry.shape)),
                f"{entry.parameter_share:.1%}",
                "" if entry.flop_share is None else f"{entry.flop_share:.1%}",
            ]
            for entry in self.entries
        ]

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {
            "model": self.model,
            "parameters": self.parameters,
            "flops": self.flops,
            "mechanisms": [entry.as_dict() for entry in self.entries],
            "missed": list(self.missed),
        }

    def to_json(self) -> str:
        """Return `as_dict` as text."""
        return json.dumps({"schema": "attnviz.inspect", "schema_version": SCHEMA} | self.as_dict())


def inspect(
    model: nn.Module, example: Tensor | Mapping[str, Any] | tuple[Any, ...], *, name: str = ""
) -> Inventory:
    """List every attention mechanism of a model: what kind it is, and what attends to what.

    Softmax attention and gates are found by what the model computes while it runs on the example
    (see `attnviz.attention.tap`), whatever its modules are called; so are spatial transformers
    and deformable convolutions. A module whose attention is made in another way can declare it by a
    static method `own_attention` (inputs, output) -> (tensor, kind, mechanism, attends), which
    stands for what it is made of. A model without any gives an empty inventory.

    Args:
        model: any `nn.Module`; it is run twice in evaluation mode and left as it was.
        example: an input: a tensor, keyword arguments, or several positional arguments.
        name: of the model.

    Raises:
        ModelError: the model does not run on the example.
    """
    module = unwrap(model)

    def forward() -> None:
        if isinstance(example, Mapping):
            module(**example)
        elif isinstance(example, tuple):
            module(*example)
        else:
            module(example)

    with preserved(module), eager(module), torch.no_grad():
        try:
            with (
                tap(module, keep="qk", required=False) as taken,
                watch(module) as moving,
            ):
                forward()
        except AttnvizError:
            raise
        except Exception as error:
            first = (str(error).splitlines() or [""])[0]
            raise ModelError(
                f"{type(module).__name__} does not run on the example "
                f"({type(error).__name__}: {first[:200]}); pass an input that it takes"
            ) from error
        counted: dict[str, int] | None
        try:
            # apart from the tap, under which fused operations run as others
            with flops(module) as counted:
                forward()
        except Exception:  # an operation that the counter does not know costs only its number
            counted = None
    total = parameters(module)
    modules = dict(module.named_modules())
    # what a module declares stands in the place of the softmaxes that it is made of
    own = {n for n, m in modules.items() if hasattr(type(m), "own_attention")}
    found = of_all(taken.sites, steps=time_steps(example))
    found = [entry for entry in found if entry.name not in own]
    entries = tuple(
        _with_cost(entry, modules, total, counted)
        for entry in _in_order([*found, *moving], modules)
    )
    return Inventory(
        entries,
        name or type(module).__name__,
        total,
        None if counted is None else counted[""],
        tuple(map(str, taken.missed)),
    )


def _in_order(entries: list[Mechanism], modules: dict[str, nn.Module]) -> list[Mechanism]:
    """Keep the order of the run; what moves is put where its module is defined."""
    position = {name: i for i, name in enumerate(modules)}
    taps = [e for e in entries if not isinstance(e.source, Tensor)]
    for entry in (e for e in entries if isinstance(e.source, Tensor)):
        at = next(
            (i for i, e in enumerate(taps) if position.get(e.name, 0) > position[entry.name]),
            len(taps),
        )
        taps.insert(at, entry)
    return taps


def _with_cost(
    entry: Mechanism, modules: dict[str, nn.Module], total: int, counted: dict[str, int] | None
) -> Mechanism:
    module = modules.get(entry.name)
    if module is None:
        return entry
    own = parameters(module)
    spent = None if counted is None else counted.get(entry.name, 0)
    whole = 0 if counted is None else counted[""]
    return replace(
        entry,
        module=type(module).__name__,
        parameters=own,
        parameter_share=own / total if total else 0.0,
        flops=spent,
        flop_share=spent / whole if spent is not None and whole else None,
    )
