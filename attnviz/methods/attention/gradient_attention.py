"""Attention weighted by the gradient of the score, in one layer and through all of them."""

from __future__ import annotations

from torch import Tensor

from ._register import register_attention
from .reading import Reading, Row
from .steps import adapt, attend, gradient_rows, tokens_of


def _weighted(reading: Reading, site: int, column: int, row: Tensor) -> Tensor:
    """Return r E_h[(dS/dA * A)+] of one layer, (B, T)."""
    layer = reading.sites[site]
    return attend(layer, row, None, weights=gradient_rows(layer, reading.gradient(layer, column)))


@register_attention("gradient_attention", paper="arXiv:2103.15679", units="score",
                    needs_gradient=True, per_layer=True, aliases=("grad_attention",))  # fmt: skip
def gradient_attention(reading: Reading, column: int, *, row: Row = None) -> Tensor:
    """Attention of one layer, each weight times its effect on the score, positive part.

    E_h[(dS/dA * A)+], the row that the model's head reads (equation 5 of Chefer et al. 2021b).
    dS/dA = dS/dO Vᵀ, so fused attention will do and only the rows asked for are computed.

    Args:
        reading: the forward pass.
        column: which target.
        row: whose row, as in `raw_attention`.

    Returns:
        (B, h, w), in units of the score.
    """
    start, _ = reading.start(row, column)
    return reading.picture(_weighted(reading, -1, column, start), tokens_of(reading.last))


@register_attention("generic_relevance", paper="arXiv:2103.15679", units="relevance",
                    needs_gradient=True, aliases=("relevance", "chefer"))  # fmt: skip
def generic_relevance(reading: Reading, column: int, *, row: Row = None) -> Tensor:
    """Generic attention relevance for self-attention (Chefer, Gur & Wolf 2021b).

    R <- R + Ā R over the layers, Ā = E_h[(dS/dA * A)+], begun with R = I; the row r R that the
    head reads is r <- r + r Ā from the last layer to the first. The share that a token keeps by
    itself is part of it. For models with cross-attention see `attnviz.methods.attention.relevance`.

    Args:
        reading: the forward pass.
        column: which target.
        row: whose row, as in `raw_attention`.

    Returns:
        (B, h, w), without unit.
    """
    current, tokens = reading.start(row, column)
    for number in range(len(reading.sites) - 1, -1, -1):
        site = reading.sites[number]
        own = tokens_of(site)
        current, tokens = adapt(current, tokens, own, site), own
        weighted = _weighted(reading, number, column, current)
        current = weighted if site.kind == "pooling" else current + weighted
    return reading.picture(current, tokens)
