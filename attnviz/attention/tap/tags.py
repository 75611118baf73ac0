"""Notes kept on tensors while a model runs: where their values and their tokens came from."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
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
class Rearranged:
    """How a tensor was laid out from another: a chain of views, shifts, paddings and projections.

    Attributes:
        parent: the step before; None at the source.
        shape: shape of the source tensor (at the source only).
        op: "move" (call `fn` on the indices), "last" / "second" (that dimension was projected
            onto `width` channels), "same" (values changed, places did not), "pairs" (a source
            that is a matrix product), "cat" (joined to others, args = (dimension, offset, size)),
            "stack" (args = (dimension, number)) or "reduce" (args = (dimensions, keepdim)).
        origin: what the source is: "picture" (B, C, h, w) from a convolution of the model's
            input, "given" (an argument of the model), "fixed" (a parameter), "words" (looked up
            in a table), "pairs", or "" where it is not known.
        made_of: at a source that a convolution or a pooling made, the chain of what it read.
        pair: at a source "pairs", the chains of the two factors, first queries and then keys.
        beside: at a "cat" to keys of earlier calls (a cache), the chain of the new tokens.
        depth: number of steps.
    """

    parent: Rearranged | None = None
    shape: tuple[int, ...] = ()
    op: str = "same"
    fn: Callable[..., Any] | None = None
    args: tuple[Any, ...] = ()
    kwargs: tuple[tuple[str, Any], ...] = ()
    pick: int | None = None
    width: int = 0
    depth: int = 0
    origin: str = ""
    made_of: Rearranged | None = None
    pair: tuple[Rearranged | None, Rearranged | None] | None = None
    beside: Rearranged | None = None

    def __post_init__(self) -> None:
        if self.parent is not None:
            object.__setattr__(self, "depth", self.parent.depth + 1)
            object.__setattr__(self, "origin", self.parent.origin)
        elif self.op == "pairs":
            object.__setattr__(self, "origin", "pairs")

    @property
    def root(self) -> Rearranged:
        """The source of the chain."""
        step = self
        while step.parent is not None:
            step = step.parent
        return step


def leading(*chains: Rearranged | None) -> Rearranged | None:
    """Return which of several tensors that were combined tells where the tokens are.

    Logits keep their pairs whatever bias is added; patches keep their places under a position
    code; of equal ones the shorter history is the residual stream.
    """

    def rank(chain: Rearranged) -> tuple[int, int]:
        root = chain.root
        if chain.origin == "pairs":
            return (4 if root.pair is not None else 0), -chain.depth
        known = {"picture": 3, "words": 2, "fixed": 1}.get(chain.origin)
        return (2 if known is None else known), -chain.depth

    return max((c for c in chains if c is not None), key=rank, default=None)


def common(first: Rearranged | None, second: Rearranged | None) -> bool | None:
    """Say whether two tensors were made of the same tokens; None where that is not known."""
    if first is None or second is None or "pairs" in (first.origin, second.origin):
        return None
    seen = {id(step) for step in _steps(first)}
    for step in _steps(second):
        # two patch embeddings of one image are two streams
        if id(step) in seen and not (step.origin == "given" and step.root is not first.root):
            return True
        if step.beside is not None and common(first, step.beside):
            return True
    # where a way could not be followed to its beginning, they may still be the same
    return None if "" in (first.origin, second.origin) else False


class Keys:
    """What served attentions as keys and values in this call and in the one before."""

    def __init__(self) -> None:
        self._now: dict[int, Rearranged] = {}
        self._before: dict[int, Rearranged] = {}

    def turn(self) -> None:
        """Hear of a new call of the model."""
        self._now, self._before = {}, self._now

    def note(self, chains: Sequence[Rearranged | None]) -> None:
        """Note the keys and values of an attention: a cache may bring them back."""
        for chain in chains:
            self._now.update((id(step), step) for step in _moves(chain))

    def cached(self, chain: Rearranged) -> bool:
        """Say whether a tensor is keys or values of the call before."""
        return any(id(step) in self._before for step in _moves(chain))


def _moves(chain: Rearranged | None) -> Iterator[Rearranged]:
    """Yield the steps back to the first that is no move, and that one."""
    while chain is not None:
        yield chain
        chain = chain.parent if chain.op == "move" else None


def projected(chain: Rearranged | None) -> bool:
    """Say whether logits were projected from tokens, one by one, and not made of pairs."""
    found, widths = False, set()
    while chain is not None:
        if chain.op in ("last", "second"):
            found = True
            widths.add(chain.width)
        if chain.op == "pairs":
            # logits mixed over heads stay as many; else these are tokens after another product
            return found and (chain.pair is None or not widths & set(chain.shape[1:]))
        chain = chain.parent
    return found


def _steps(chain: Rearranged | None) -> Iterator[Rearranged]:
    """Yield the steps back to the beginning, through convolutions and pooling."""
    while chain is not None:
        yield chain
        chain = chain.made_of if chain.parent is None else chain.parent


@dataclass(frozen=True, eq=False)
class Stream:
    """The last tensor that holds the tokens of an attention: what the model's head reads.

    Attributes:
        tensor: (B, T, C), or a picture.
        note: where its tokens are.
        tick: number of the call that made it.
    """

    tensor: Tensor
    note: Rearranged
    tick: int


@dataclass(frozen=True, eq=False, slots=True)
class Weighted:
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
        composed: a product of attentions, as of landmarks (Nystromformer).
    """

    function: str
    origin: str
    source: Rearranged | None = None
    given: weakref.ref[Tensor] | None = None
    dim: int | None = None
    clean: Tensor | None = None
    compact: Tensor | None = None
    mixed: bool = False
    gate: Any = None
    composed: bool = False

    @property
    def of_pairs(self) -> bool:
        """Whether these are an attention's weights, and not gates or values between 0 and 1."""
        pairs = self.source is not None and self.source.origin == "pairs"
        return self.composed or (self.function == "softmax" and pairs)
