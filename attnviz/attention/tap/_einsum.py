"""Read an einsum of attention weights and values as A V = O."""

from __future__ import annotations

import math
import string
from collections.abc import Callable

from torch import Tensor

Arrange = Callable[[Tensor], Tensor]


def einsum_parts(
    equation: str, which: int, weights: Tensor, values: Tensor, output: Tensor
) -> tuple[Tensor, Tensor, Arrange, Arrange, tuple[int, ...]] | None:
    """Return A (..., Q, K), V (..., K, E) and the functions that arrange A and O (..., Q, E).

    Last come the sizes of the dimensions that together are the queries.

    Args:
        equation: e.g. "bhij,bhjd->bhid".
        which: whether the weights are the first (0) or second (1) operand.
        weights, values, output: the tensors as they were given and returned.

    Returns:
        None if nothing is summed over a dimension that both operands have.
    """
    left, _, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != 2:
        return None
    free = [c for c in string.ascii_letters if c not in equation]
    shapes = (weights, values) if which == 0 else (values, weights)
    dots = max((t.ndim - len(n.replace("...", "")) for t, n in zip(shapes, terms, strict=True)
                if "..." in n), default=0)  # fmt: skip
    more = "".join(free[:dots])
    filled = []
    for tensor, term in zip(shapes, terms, strict=True):
        own = tensor.ndim - len(term.replace("...", ""))
        filled.append(term.replace("...", more[dots - own :] if own else ""))
    result = right.replace("...", more)
    if not right:
        every = "".join(filled)
        result = more + "".join(sorted(c for c in set(every) - set(more) if every.count(c) == 1))
    a, v = filled[which], filled[1 - which]
    if any(len(set(t)) != len(t) for t in (a, v, result)):
        return None
    batch = [c for c in a if c in v and c in result]
    keys = [c for c in a if c in v and c not in result]
    queries = [c for c in a if c not in v and c in result]
    rest = [c for c in v if c not in a and c in result]
    if not keys or len(batch) + len(keys) + len(queries) != len(a):
        return None
    if len(batch) + len(keys) + len(rest) != len(v):
        return None

    def arrange(tensor: Tensor, names: str, rows: list[str], columns: list[str]) -> Tensor:
        size = dict(zip(names, tensor.shape, strict=True))
        order = [names.index(c) for c in (*batch, *rows, *columns)]
        return tensor.permute(order).reshape(
            *(size[c] for c in batch),
            math.prod(size[c] for c in rows),
            math.prod(size[c] for c in columns),
        )

    def arrange_weights(tensor: Tensor) -> Tensor:
        return arrange(tensor, a, queries, keys)

    def arrange_output(tensor: Tensor) -> Tensor:
        return arrange(tensor, result, queries, rest)

    return (
        arrange_weights(weights),
        arrange(values, v, keys, rest),
        arrange_weights,
        arrange_output,
        tuple(weights.shape[a.index(c)] for c in queries),
    )
