"""One layer's step of a row vector through attention: r -> r A, without ever holding A.

A row vector gives each token of a layer's output its share in what is explained. Going from the
last layer to the first, it is multiplied by each layer's attention; only chunks of rows of that
are ever in memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ...attention.tap import Places, Site
from ...attention.tap.fold import row_chunks, wide
from ...errors import MethodError

#: (rows, heads) -> (B, H', R, K)
Weights = Callable[["slice | Tensor", slice], Tensor]

#: (weights (B, H, R, K), rows) -> (B, R, K): how the heads of some rows are made one
Fuse = Callable[[Tensor, "slice | Tensor"], Tensor]


@dataclass(frozen=True)
class Tokens:
    """The tokens between two layers: a list, or the positions of a picture after windows."""

    count: int
    prefix: int
    grid: tuple[int, int] | None


def in_places(site: Site) -> bool:
    """Say whether a layer's tokens are put on the picture one by one: windows, padded or not."""
    return site.grid is None and site.queries == site.keys and site.has_places


def keys_of(site: Site) -> Tokens:
    """Return the tokens that a layer's weights are over."""
    if in_places(site):
        grid = site.places().grid
        return Tokens(math.prod(grid), 0, grid)
    return Tokens(site.keys, site.prefix, site.grid)


def tokens_of(site: Site) -> Tokens:
    """Return the tokens that go into a layer.

    Where squares of patches are merged for the keys (PVT, Segformer, Twins) they are more than
    these, and as many as the queries.

    Raises:
        MethodError: there are more queries than keys, and not by a square for each of them.
    """
    keys = keys_of(site)
    if site.kind != "self" or site.queries <= site.keys or keys.grid is None:
        return keys
    patches = site.queries - keys.prefix
    step = math.isqrt(max(patches, 0) // max(math.prod(keys.grid), 1))
    if step * step * math.prod(keys.grid) != patches:
        raise MethodError(
            f"layer {site.name!r} has {site.queries} queries and {site.keys} keys, and how patches "
            "were merged into these is not known; name other layers, e.g. layer=[...]"
        )
    return Tokens(site.queries, keys.prefix, (keys.grid[0] * step, keys.grid[1] * step))


def adapt(row: Tensor, have: Tokens, want: Tokens, site: Site) -> Tensor:
    """Return a row vector over the tokens after a layer as one over that layer's own.

    Tokens that join later (a class token in front) are dropped; where a layer in between halved
    the picture, each token passes its share in equal parts to those it was merged from.

    Raises:
        MethodError: the numbers of tokens do not fit together.
    """
    if have.count == want.count or site.kind == "pooling":
        return row
    if have.grid is not None and want.grid is not None:
        patches = row[:, have.prefix :]
        first = row[:, : have.prefix]
        if have.grid != want.grid:
            down = [w // h for h, w in zip(have.grid, want.grid, strict=True)]
            whole = all(h * d == w for h, d, w in zip(have.grid, down, want.grid, strict=True))
            if not whole:
                patches = None
            else:
                square = patches.unflatten(1, have.grid) / math.prod(down)
                square = square.repeat_interleave(down[0], 1).repeat_interleave(down[1], 2)
                patches = square.flatten(1)
        if patches is not None and want.prefix in (0, have.prefix):
            return patches if want.prefix == 0 else torch.cat([first, patches], 1)
    elif have.count > want.count and have.count - want.count <= 16 and have.prefix > want.prefix:
        return row[:, have.count - want.count :]
    raise MethodError(
        f"layer {site.name!r} has {want.count} tokens and the layer after it {have.count}, and how "
        "they were merged is not known; name the layers to use, e.g. layer=[...] of one stage"
    )


def attend(
    site: Site,
    row: Tensor,
    fuse: Fuse | None,
    *,
    weights: Weights | None = None,
    head: int | None = None,
    budget: int | None = None,
) -> Tensor:
    """Return r A for one layer, A being the heads' attention made one, over the layer's tokens.

    Patches that were merged into one key share in it equally.

    Args:
        site: the layer.
        row: (B, T) over the layer's output tokens; for windows over positions of the picture.
        fuse: how heads are made one; None is their mean.
        weights: (rows, heads) -> (B, H', R, K) if it is not the attention itself.
        head: only this one is read.
        budget: bytes that a chunk of weights may take.
    """
    places = site.places() if in_places(site) else None
    if places is not None and weights is None:
        row = row / _windows(row, places)  # shares stay shares where windows overlap (VOLO)
    own = gather(row, places) if places is not None else row[:, : site.queries]
    found = own.new_zeros(own.shape[0], site.keys)
    count = site.heads if head is None else 1
    for rows, heads in _active_parts(site, own, count, budget, together=fuse is not None):
        if weights is None:
            own_heads = heads if head is None else head
            part = site.weights(rows=rows, heads=own_heads, budget=budget)
        else:
            part = weights(rows, heads)
        r = own[:, rows].to(part.dtype)
        if fuse is None:  # mean over heads: one product of a row and a tall matrix for each image
            several, number = part.shape[1], part.shape[2]
            wide_row = (r / count).repeat(1, several)[:, None]
            found = found + (wide_row @ part.reshape(-1, several * number, site.keys))[:, 0]
        else:
            found = found + (r[:, None] @ fuse(part, rows))[:, 0]
    if places is not None:
        return places.scatter(found).flatten(1)
    if site.kind != "self":
        return found
    return adapt(found, keys_of(site), tokens_of(site), site)


def gather(row: Tensor, places: Places) -> Tensor:
    """Return the values of a picture's positions in their windows: (B, h w) -> (B W, T)."""
    position = places.position.to(row.device)
    taken = row[places.image.to(row.device), position.clamp(min=0)]
    return taken.masked_fill(position < 0, 0.0)


def _windows(row: Tensor, places: Places) -> Tensor:
    """Return in how many windows each position of a picture stands, (B, h w), at least 1."""
    position, image = places.position.to(row.device), places.image.to(row.device)
    held = (position >= 0).to(row.dtype)
    at = (image.expand_as(position), position.clamp(min=0))
    return torch.zeros_like(row).index_put(at, held, accumulate=True).clamp(min=1)


def _active_parts(
    site: Site, row: Tensor, heads: int, budget: int | None, *, together: bool
) -> Iterator[tuple[slice | Tensor, slice]]:
    """Yield rows and heads to compute at a time: all rows, or the few that have any share.

    Few heads of many rows are faster than all heads of few rows: products of a few rows spend
    their time on arranging the keys.
    """
    budget = _CHUNK if budget is None else budget
    active, count, size = None, site.queries, site.row_bytes
    if not row.requires_grad:
        found = (row != 0).any(0).nonzero()[:, 0]
        if len(found) < count:
            active, count = found, len(found)
    several = heads if together else budget // max(size * min(count, _ROWS), 1)
    several = min(max(several, 1), heads)
    for first in range(0, heads, several):
        for chunk in row_chunks(count, size * several, budget):
            yield chunk if active is None else active[chunk], slice(first, first + several)


#: bytes of weights at a time: small enough to stay in a processor's cache
_CHUNK = 4 * 2**20

#: rows of a head at a time, if the bytes allow for them
_ROWS = 256


def gradient_rows(site: Site, gradient: Tensor) -> Weights:
    """Return (rows, heads) -> (dS/dA * A)+ of these, (B, H', R, K), from q, k, v and dS/dO.

    dS/dA = dS/dO Vᵀ, so neither A nor its gradient is kept (Chefer et al. 2021, arXiv:2103.15679,
    equation 5, without the mean over heads).

    Args:
        site: with q, k (or probabilities) and v.
        gradient: (B, H, Q, Ev), dS/dO.
    """
    values = wide(site.values()).transpose(-2, -1)

    def rows_of(rows: slice | Tensor, heads: slice) -> Tensor:
        attention = site.weights(rows=rows, heads=heads)
        own = values if values.shape[1] == 1 else values[:, heads]
        part = gradient[:, heads, rows].to(attention.dtype) @ own.to(attention.dtype)
        if part.requires_grad or attention.requires_grad:
            return (attention * part).clamp(min=0)
        return part.mul_(attention).clamp_(min=0)  # no third matrix

    return rows_of
