"""Attention rollout."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...attention.tap import Site
from ...errors import MethodError
from ._register import register_attention
from .reading import Reading, Row
from .steps import Fuse, Tokens, adapt, attend, in_places, tokens_of

FUSIONS = ("mean", "max", "min")


def rollout(
    sites: Sequence[Site],
    row: Tensor,
    *,
    fusion: str = "mean",
    discard: float = 0.0,
    residual: float = 0.5,
    budget: int | None = None,
) -> Tensor:
    """Return one row of the attention rollout (Abnar & Zuidema 2020, arXiv:2005.00928).

    R = Â_L ... Â_1 with Â = residual * I + (1 - residual) * Ā, Ā being the heads made one. Only
    the row r R is computed, from the last layer to the first, so no matrix of tokens by tokens is
    kept; with fusion "mean" and no discarding it is exact.

    Args:
        sites: self-attention layers in the order of the forward pass.
        row: (B, T), the weights of the last layer's tokens, e.g. 1 at the class token.
        fusion: "mean", "max" or "min" over heads. For max and min, rows of Â are divided by their
            sums.
        discard: share of each Ā's smallest entries set to zero, in [0, 1); rows of Â are divided
            by their sums afterwards. The class token's attention to itself stays. This holds one
            matrix of tokens by tokens at a time.
        residual: weight of the skip connection, in [0, 1].
        budget: bytes that a chunk of weights may take.

    Returns:
        (B, T') over the first layer's tokens; sums to what `row` sums to.

    Raises:
        MethodError: an unknown fusion, a share out of range, layers that do not fit together.
    """
    return roll(sites, row, fusion=fusion, discard=discard, residual=residual, budget=budget)[0]


def roll(
    sites: Sequence[Site],
    row: Tensor,
    *,
    fusion: str = "mean",
    discard: float = 0.0,
    residual: float = 0.5,
    budget: int | None = None,
) -> tuple[Tensor, Tokens]:
    """Return `rollout` and the tokens it is over."""
    if fusion not in FUSIONS:
        raise MethodError(f"fusion={fusion!r}: expected one of {', '.join(FUSIONS)}")
    if not 0 <= discard < 1 or not 0 <= residual <= 1:
        raise MethodError(f"discard={discard} is in [0, 1), residual={residual} in [0, 1]")
    tokens = tokens_of(sites[-1])
    for site in reversed(sites):
        own = tokens_of(site)
        row = adapt(row, tokens, own, site)
        tokens = own
        row = _step(site, row, fusion, discard, residual, budget)
    return row, tokens


def _step(
    site: Site, row: Tensor, fusion: str, discard: float, residual: float, budget: int | None
) -> Tensor:
    if site.kind == "pooling":  # its queries are no tokens, so nothing passes beside it
        return attend(site, row, None if fusion == "mean" else _fuse(fusion), budget=budget)
    acting = row
    kept = row * residual
    if site.queries < site.keys:
        # class attention: only the first tokens ask, the others pass as they are
        acting, rest = row[:, : site.queries], row[:, site.queries :]
        kept = torch.cat([acting * residual, rest], 1)
    if fusion == "mean" and not discard:
        return kept + (1 - residual) * attend(site, acting, None, budget=budget)
    if in_places(site):
        raise MethodError("fusion and discard of windowed attention: only fusion='mean', discard=0")
    if discard:
        fused = _discarded(_fuse(fusion)(site.weights(), slice(None)), discard)
        total = residual + (1 - residual) * fused.sum(-1)
        share = acting / total
        return _scaled(kept, total) + (1 - residual) * (share[:, None] @ fused)[:, 0]
    # the row sums are needed before the rows are used, and come with them
    sums = torch.cat([_fuse(fusion)(w, r).sum(-1) for r, w in site.chunks(budget=budget)], 1)
    total = residual + (1 - residual) * sums
    share = acting / total
    return _scaled(kept, total) + (1 - residual) * attend(site, share, _fuse(fusion), budget=budget)


def _scaled(kept: Tensor, total: Tensor) -> Tensor:
    number = total.shape[1]
    return torch.cat([kept[:, :number] / total, kept[:, number:]], 1)


def _fuse(fusion: str) -> Fuse:
    if fusion == "max":
        return lambda weights, _: weights.amax(1)
    if fusion == "min":
        return lambda weights, _: weights.amin(1)
    return lambda weights, _: weights.mean(1)


def _discarded(fused: Tensor, share: float) -> Tensor:
    """Set the smallest entries of each image's matrix to zero; entry (0, 0) stays."""
    flat = fused.flatten(1)
    number = int(flat.shape[1] * share)
    if not number:
        return fused
    index = flat.topk(number, dim=1, largest=False).indices
    keep = torch.ones_like(flat).scatter(1, index, 0.0)
    keep[:, 0] = 1
    return (flat * keep).view_as(fused)


@register_attention("rollout", paper="arXiv:2005.00928", units="share of attention",
                    aliases=("attention_rollout", "attention-rollout"))  # fmt: skip
def rollout_map(
    reading: Reading,
    column: int,
    *,
    row: Row = None,
    fusion: str = "mean",
    discard: float = 0.0,
    residual: float = 0.5,
) -> Tensor:
    """Attention rollout: attention multiplied through all layers (Abnar & Zuidema 2020).

    The same for every class. See `attnviz.attention.rollout`; windows (Swin) are put back on the
    picture, and where patches merge between stages their share is passed on in equal parts, which
    the paper has not.

    Args:
        reading: the forward pass.
        column: which score, for the row that the head reads.
        row: whose row is shown; by default what the model's head reads.
        fusion, discard, residual: see `rollout`.

    Returns:
        (B, h, w).
    """
    start, _ = reading.start(row, column)
    values, tokens = roll(reading.sites, start, fusion=fusion, discard=discard, residual=residual)
    return reading.picture(values, tokens)
