"""Notes kept on tensors while a model runs: where their values and their tokens came from."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor


class Notes:
    """A dictionary from tensors to notes that neither keeps them alive nor touches them."""

    def __init__(self) -> None:
        self._table: dict[int, tuple[weakref.ref[Tensor], Any]] = {}

    def get(self, tensor: Any) -> Any:
        """Return the note on a tensor, or None."""
        entry = self._table.get(id(tensor))
        if entry is None or entry[0]() is not tensor:
            return None
        return entry[1]

    def put(self, tensor: Tensor, note: Any) -> None:
        """Set the note on a tensor; it goes when the tensor goes."""
        key, table = id(tensor), self._table

        def forget(ref: weakref.ref[Tensor]) -> None:
            entry = table.get(key)
            if entry is not None and entry[0] is ref:
                del table[key]

        table[key] = (weakref.ref(tensor, forget), note)

    def clear(self) -> None:
        """Forget everything."""
        self._table.clear()


@dataclass(frozen=True, eq=False, slots=True)
class Moved:
    """How a tensor was laid out from another: a chain of views, shifts, paddings and projections.

    Attributes:
        parent: the step before; None at the source.
        shape: shape of the source tensor (at the source only).
        op: "move" (call `fn` on the indices), "last" / "second" (that dimension was projected
            onto `width` channels), "same" (values changed, places did not) or "pairs" (a source
            that is a matrix product) or "cat" (joined to others, args = (dimension, offset, size)).
        depth: number of steps.
        real: the source may be a picture or a list of tokens (it is no matrix product).
    """

    parent: Moved | None = None
    shape: tuple[int, ...] = ()
    op: str = "same"
    fn: Callable[..., Any] | None = None
    args: tuple[Any, ...] = ()
    kwargs: tuple[tuple[str, Any], ...] = ()
    pick: int | None = None
    width: int = 0
    depth: int = 0
    real: bool = True

    def __post_init__(self) -> None:
        if self.parent is not None:
            object.__setattr__(self, "depth", self.parent.depth + 1)
            if not self.parent.real:
                object.__setattr__(self, "real", False)
        elif self.op == "pairs" or len(self.shape) not in (3, 4):
            object.__setattr__(self, "real", False)


@dataclass(frozen=True, eq=False, slots=True)
class Weighed:
    """The values of a tensor are the output of a softmax or sigmoid, moved about since.

    Attributes:
        function: "softmax", "sigmoid", "hardsigmoid" ("relu6" until it is divided by 6), or
            "relu" of a product of pairs.
        origin: module in which it ran.
        source: place chain of that function's input, to tell `x * sigmoid(x)` from a gate.
        given: weak reference to that input.
        dim: dimension of the softmax, while it can be followed.
        clean: the same values without dropout; None if there was none.
        compact: the same values before they were expanded to another shape.
        mixed: went through a linear map, so that rows need not sum to 1.
        gate: a gate that was noted where these weights were multiplied; none, if they go on to
            weigh values.
    """

    function: str
    origin: str
    source: Moved | None = None
    given: weakref.ref[Tensor] | None = None
    dim: int | None = None
    clean: Tensor | None = None
    compact: Tensor | None = None
    mixed: bool = False
    gate: Any = None
