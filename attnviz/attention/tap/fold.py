"""Attention weights from queries and keys: row by row, head by head, never more than asked.

Every function is differentiable with respect to q and k, and computes in float32 or higher.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ...hooks import wide

Index = int | slice | Sequence[int] | Tensor | None

#: bytes that one chunk of logits may take, if nothing else is said
BUDGET = 64 * 2**20


def bias_rows(
    mask: Tensor | None,
    rows: Tensor | slice,
    causal: bool,
    keys: int,
    total: int,
    device: torch.device,
) -> Tensor | None:
    """Return what is added to the logits of the rows asked for, or None.

    Args:
        mask: broadcastable to (B, H, Q, K): bool (True attends) or float (added).
        rows: indices or a slice of query rows.
        causal: query i attends keys 0..i (aligned top left, as in PyTorch's fused kernel).
        keys: number of keys K.
        total: number of queries Q.
        device: where the logits are.

    Returns:
        Float tensor broadcastable to (B, H, R, K), -inf where attention is forbidden.
    """
    bias = None
    if mask is not None:
        bias = mask if mask.shape[-2] == 1 else mask[..., rows, :]
        if bias.dtype == torch.bool:
            zero = torch.zeros((), device=bias.device)
            bias = torch.where(bias, zero, zero - math.inf)
        else:
            bias = wide(bias)
    if causal:
        index = torch.arange(total, device=device)[rows]
        ahead = torch.arange(keys, device=device)[None, :] > index[:, None]
        blocked = torch.zeros(ahead.shape, device=device).masked_fill(ahead, -math.inf)
        bias = blocked if bias is None else bias + blocked
    return bias


def grouped(q: Tensor, kv: Tensor) -> Tensor:
    """Repeat key or value heads (B, G, K, E) so that each query head has its own: (B, H, K, E)."""
    if kv.shape[1] in (1, q.shape[1]):
        return kv  # one shared head broadcasts
    return kv.repeat_interleave(q.shape[1] // kv.shape[1], dim=1)


def take_heads(kv: Tensor, heads: int, index: slice | Tensor) -> Tensor:
    """Return the key or value heads (B, G, K, E) of some query heads; one shared head as it is."""
    if kv.shape[1] == 1:
        return kv
    if kv.shape[1] != heads:  # only those asked for are repeated
        index = torch.arange(heads)[index] // (heads // kv.shape[1])
    return take(kv, 1, index)


def softmax_logits(q: Tensor, k: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    """Return softmax(scale q kᵀ + bias): (B, H, R, E), (B, H or 1, K, E) -> (B, H, R, K).

    A row in which every key is forbidden is zero, as the fused kernel has it, never NaN.
    """
    scores = (wide(q) * scale) @ wide(k).transpose(-2, -1)
    if bias is None or scores.shape[-1] == 0:
        return scores.softmax(-1)
    scores = scores + bias.to(scores.dtype)
    dead = (scores == -math.inf).all(-1, keepdim=True)
    # filled before and after, so that no NaN enters the gradient either
    return scores.masked_fill(dead, 0.0).softmax(-1).masked_fill(dead, 0.0)


def cell_bytes(held: Tensor, added: bool | None, causal: bool) -> int:
    """Return the bytes a weight takes while it is computed.

    Args:
        held: queries, or the weights themselves.
        added: whether a mask is added to the logits; None where the weights are held.
        causal: whether a causal mask is.
    """
    size = 8 if held.dtype == torch.float64 else 4
    # logits, what is added to them and the softmax lie beside each other for a moment
    return size * (1 if added is None else 5 if added else 3) + 8 * causal


def row_chunks(rows: int, row_bytes: int, budget: int | None) -> Iterator[slice]:
    """Yield slices that cover `rows` rows, each at most `budget` bytes (at least one row)."""
    step = max(1, (BUDGET if budget is None else budget) // max(row_bytes, 1))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def indices(index: Index, size: int, what: str, name: str) -> slice | Tensor:
    """Return a slice, or a tensor of non-negative indices, checked against the size."""
    if index is None:
        return slice(0, size)
    if isinstance(index, slice):
        start, stop, step = index.indices(size)
        if step == 1:
            return slice(start, max(start, stop))
        index = list(range(start, stop, step))
    numbers = torch.as_tensor(index).reshape(-1).tolist()
    if numbers and isinstance(numbers[0], bool):
        numbers = [i for i, wanted in enumerate(numbers) if wanted]
    for number in numbers:
        if not -size <= number < size:
            raise IndexError(f"{what}={number} of site {name!r}: expected -{size} to {size - 1}")
    return torch.tensor([n % size for n in numbers], dtype=torch.long)


def take(tensor: Tensor, dim: int, index: slice | Tensor) -> Tensor:
    """Return the entries of a dimension; a view for a slice."""
    if isinstance(index, slice):
        if index.start == 0 and index.stop == tensor.shape[dim]:
            return tensor
        return tensor.narrow(dim, index.start, index.stop - index.start)
    return tensor.index_select(dim, index.to(tensor.device))


def shift(base: slice, chunk: slice, size: int) -> tuple[int, int]:
    """Return where a chunk of a slice begins and ends."""
    return base.start + chunk.start, base.start + chunk.stop
