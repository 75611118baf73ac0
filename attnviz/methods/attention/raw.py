"""Attention of one layer as it is: of a head, of the class token, of a patch."""

from __future__ import annotations

from torch import Tensor

from ...errors import MethodError
from ._register import register_attention
from .reading import Reading, Row
from .steps import attend, tokens_of


@register_attention("raw_attention", paper="arXiv:1706.03762", units="share of attention",
                    per_layer=True, aliases=("attention", "raw"))  # fmt: skip
def raw_attention(
    reading: Reading, column: int, *, head: int | str = "mean", row: Row = None
) -> Tensor:
    """Attention weights of one layer (Vaswani et al. 2017): where a token looks.

    The same for every class. Windows (Swin) are put back on the picture, shift included.

    Args:
        reading: the forward pass.
        column: not used.
        head: a head's number, or "mean", "max", "min" over heads.
        row: whose attention: None for what the model's head reads (class token, or the mean of
            all patches), "cls", "mean", a patch (row, column), a token's number, or weights.

    Returns:
        (B, h, w); the values and those of the prefix tokens sum to 1 for one head or their mean.
    """
    site = reading.last
    start, _ = reading.start(row, column)
    tokens = tokens_of(site)
    if head == "mean":
        return reading.picture(attend(site, start, None), tokens)
    if isinstance(head, str) and head in ("max", "min"):

        def fuse(weights: Tensor, rows: object) -> Tensor:
            return weights.amax(1) if head == "max" else weights.amin(1)

        return reading.picture(attend(site, start, fuse), tokens)
    if isinstance(head, str) or not -site.heads <= head < site.heads:
        raise MethodError(
            f"head={head!r}: {site.name!r} has heads 0 to {site.heads - 1}; or 'mean', 'max', 'min'"
        )
    return reading.picture(attend(site, start, None, head=int(head)), tokens)


@register_attention("cls_attention", paper="arXiv:2104.14294", units="share of attention",
                    per_layer=True, aliases=("cls",))  # fmt: skip
def cls_attention(reading: Reading, column: int, *, head: int | str = "mean") -> Tensor:
    """Attention of the class token in one layer, as DINO shows it (Caron et al. 2021).

    Args:
        reading: the forward pass.
        column: not used.
        head: a head's number, or "mean", "max", "min" over heads.

    Returns:
        (B, h, w).

    Raises:
        MethodError: the model has no class token.
    """
    if reading.last.kind == "pooling":
        raise MethodError(f"{reading.last.name!r} pools and has no class token; use raw_attention")
    return raw_attention(reading, column, head=head, row="cls")


@register_attention("attention_received", paper="arXiv:2309.16588", units="queries",
                    per_layer=True, aliases=("received",))  # fmt: skip
def attention_received(reading: Reading, column: int) -> Tensor:
    """Attention that each patch receives from all tokens of one layer: sinks and registers.

    The column sums of the mean over heads, in numbers of queries: 1 is an equal share (Darcet et
    al. 2023 find a few outlier patches that take most).

    Returns:
        (B, h, w).
    """
    site = reading.last
    tokens = tokens_of(site)
    start, _ = reading.start("mean")
    start = start.new_ones(start.shape)
    return reading.picture(attend(site, start, None), tokens)
