"""Rollout of attention weighted by its gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from ...errors import MethodError
from ._register import register_attention
from .reading import Reading, Row
from .steps import adapt, gradient_rows, in_places, keys_of, tokens_of


@register_attention("gradient_rollout", paper="arXiv:2005.00928", units="share of attention",
                    needs_gradient=True, aliases=("grad_rollout",))  # fmt: skip
def gradient_rollout(
    reading: Reading, column: int, *, row: Row = None, residual: float = 0.5
) -> Tensor:
    """Rollout of attention weighted by its gradient, each layer by its own (after Abnar 2020).

    Â = residual * I + (1 - residual) * Ḡ, multiplied through the layers as in rollout (Abnar &
    Zuidema 2020), where Ḡ is E_h[(dS/dA * A)+] with rows divided by their sums. A token whose row
    has no positive effect passes on what it has unchanged. The widespread script of this name
    pairs the first layer's attention with the last layer's gradient.

    Args:
        reading: the forward pass.
        column: which target.
        row: whose row, as in `raw_attention`.
        residual: weight of the skip connection, in [0, 1].

    Returns:
        (B, h, w); together with the prefix tokens it sums to 1.

    Raises:
        MethodError: windowed or class attention, or a residual out of range.
    """
    if not 0 <= residual <= 1:
        raise MethodError(f"residual={residual}: expected a share in [0, 1]")
    current, tokens = reading.start(row, column)
    for site in reversed(reading.sites):
        pooling = site.kind == "pooling"
        if (site.queries < site.keys and not pooling) or in_places(site):
            raise MethodError(
                f"gradient_rollout needs plain self-attention, and {site.name!r} is "
                f"{'windowed' if in_places(site) else 'class attention'}; use "
                "generic_relevance, or name plain layers with layer=[...]"
            )
        own = tokens_of(site)
        current, tokens = adapt(current, tokens, own, site), own
        rows_of = gradient_rows(site, reading.gradient(site, column))
        moved, kept = current.new_zeros(len(current), site.keys), torch.zeros_like(current)
        for rows in site.row_chunks():
            fused = rows_of(rows, slice(None)).mean(1)
            total = fused.sum(-1)
            dead = total == 0
            share = (current[:, rows] / total.masked_fill(dead, 1.0)).masked_fill(dead, 0.0)
            moved = moved + (share[:, None] @ fused)[:, 0]
            kept[:, rows] = dead.to(current.dtype)
        moved = moved if pooling else adapt(moved, keys_of(site), own, site) + kept * current
        current = moved if pooling else residual * current + (1 - residual) * moved
    return reading.picture(current, tokens)
