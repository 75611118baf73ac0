"""Attention flow."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ...attention.tap import Site
from ...errors import MethodError
from ._register import register_attention
from .reading import Reading, token_number
from .steps import tokens_of

#: more edges than this take minutes
MOST_EDGES = 400_000


def attention_flow(
    matrices: Sequence[np.ndarray], source: int, *, sinks: Sequence[int] | None = None
) -> np.ndarray:
    """Return how much can flow from an output token to each input token (Abnar & Zuidema 2020).

    The graph has a node for each token before and after each layer and an edge from a token to
    each token below it, whose capacity is the attention. The value for an input token is the
    maximum flow from `source` to it, each by itself.

    Args:
        matrices: L matrices (T, T) >= 0, first layer first; row i is what token i attends to.
        source: token of the last layer's output.
        sinks: input tokens of interest; None is all.

    Returns:
        (T,) float64; 0 for input tokens that are not among `sinks`.
    """
    layers = [np.ascontiguousarray(m, dtype=np.float64) for m in reversed(matrices)]
    count = layers[0].shape[0]
    found = np.zeros(count)
    for sink in range(count) if sinks is None else sinks:
        found[sink] = _max_flow([m.copy() for m in layers], source, sink)
    return found


def _max_flow(residual: list[np.ndarray], source: int, sink: int) -> float:
    """Maximum flow in a layered graph by shortest augmenting paths (Edmonds & Karp 1972).

    `residual[l][i, j]` is what can still go down from token i of level l to token j of level
    l + 1; what went down may be sent back up.
    """
    depth, count = len(residual), residual[0].shape[0]
    back = [np.zeros_like(m) for m in residual]
    total, tiny = 0.0, 1e-14
    while True:
        came = np.full((depth + 1, count, 2), -1)
        came[0, source] = (0, source)
        queue = deque([(0, source)])
        while queue and came[depth, sink, 0] < 0:
            level, node = queue.popleft()
            if level < depth:
                new = np.flatnonzero((residual[level][node] > tiny) & (came[level + 1, :, 0] < 0))
                came[level + 1, new] = (level, node)
                queue.extend((level + 1, int(n)) for n in new)
            if level:
                new = np.flatnonzero(
                    (back[level - 1][:, node] > tiny) & (came[level - 1, :, 0] < 0)
                )
                came[level - 1, new] = (level, node)
                queue.extend((level - 1, int(n)) for n in new)
        if came[depth, sink, 0] < 0:
            return total
        path = [(depth, sink)]
        while path[-1] != (0, source):
            path.append(tuple(came[path[-1]]))
        path.reverse()
        room = min(
            residual[a][i, j] if a < b else back[b][j, i]
            for (a, i), (b, j) in itertools.pairwise(path)
        )
        for (a, i), (b, j) in itertools.pairwise(path):
            if a < b:
                residual[a][i, j] -= room
                back[a][i, j] += room
            else:
                residual[b][j, i] += room
                back[b][j, i] -= room
        total += room


def _capacities(sites: Sequence[Site], residual: float) -> Tensor:
    """Return (L, B, T, T): residual I + (1 - residual) times the heads' mean."""
    mixed = []
    for site in sites:
        if site.kind != "self" or site.queries != site.keys:
            raise MethodError(f"attention_flow needs plain self-attention; {site!r} is not")
        own = site.weights().double().mean(1)
        mixed.append(residual * torch.eye(site.keys, dtype=own.dtype, device=own.device)
                     + (1 - residual) * own)  # fmt: skip
    if len({m.shape[-1] for m in mixed}) > 1:
        raise MethodError("attention_flow needs the same tokens in all layers; use layer=[...]")
    return torch.stack(mixed)


@register_attention("attention_flow", paper="arXiv:2005.00928", units="share of attention",
                    aliases=("flow",))  # fmt: skip
def flow_map(
    reading: Reading, column: int, *, row: int | tuple[int, int] | None = None,
    residual: float = 0.5,
) -> Tensor:  # fmt: skip
    """Attention flow: the most attention that can pass from a token to each patch (Abnar 2020).

    Maximum flow from a token of the last layer to each patch below the first, with attention
    (residual * I + (1 - residual) * mean over heads) as capacity (Abnar & Zuidema 2020). The
    same for every class. Its cost grows with tokens to the third power and more: for few tokens.

    Args:
        reading: the forward pass.
        column: not used.
        row: a token's number or a patch (row, column); None is the class token.
        residual: weight of the skip connection, in [0, 1].

    Returns:
        (B, h, w), in [0, 1].

    Raises:
        MethodError: too many tokens, no class token, or layers that do not fit together.
    """
    tokens = tokens_of(reading.last)
    if reading.last.kind == "pooling":
        raise MethodError("attention_flow needs plain self-attention; name layers with layer=[...]")
    edges = tokens.count**2 * len(reading.sites)
    if edges > MOST_EDGES:
        raise MethodError(
            f"attention_flow solves a maximum flow for each of {tokens.count} tokens over {edges} "
            f"edges, too many (at most {MOST_EDGES}); use rollout, fewer layers or a smaller image"
        )
    if row is None and not tokens.prefix:
        raise MethodError("attention_flow starts at one token; pass row=(row, column)")
    source = 0 if row is None else token_number(row, tokens)
    with torch.no_grad():
        capacities = _capacities(reading.sites, residual).cpu().numpy()
    patches = range(tokens.prefix, tokens.count)
    values = [
        attention_flow(list(capacities[:, image]), source, sinks=patches)
        for image in range(reading.batch)
    ]
    like = reading.start("mean")[0]
    return reading.picture(torch.tensor(np.stack(values)).to(like), tokens)
