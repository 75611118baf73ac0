"""How much attention lands on a region: a number to audit and a loss to train on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...attention.tap import Site, Tap
from ...attention.tap.fold import wide
from ...errors import AttentionUnavailable, DataError, MethodError
from ...hooks import preserved
from ...targets import resolve
from .. import Request
from ..forward import ForwardPass
from .reading import Reading, of_layers, on_picture, token_number
from .steps import in_places, keys_of, tokens_of


def region_mass(
    model: nn.Module,
    x: Tensor | Mapping[str, Any],
    masks: Tensor,
    *,
    rows: Any = None,
    layers: Sequence[str] | None = None,
) -> Tensor:
    """Return how much of each head's attention lands on each region, by one forward pass.

    Attention to a region is A M with M the region's share of each key's cell; that is the fused
    attention kernel applied to M in place of V, so nothing of tokens by tokens is formed, and the
    gradient with respect to the model is exact. Use it as an audit (on the boat, on the water)
    or, with gradients enabled, as a loss:

        loss = cross_entropy(...) + attention.region_mass(model, x, water).mean()

    The model runs in the mode it is in; to have its output from the same pass, run it yourself
    inside `attention.tap(model, keep="qk", graph=True)` and call `region_mass_of`.

    Args:
        model: any model with attention among patches.
        x: (B, C, H, W), or keyword arguments of the model.
        masks: (M, h, w) or (B, M, h, w), values in [0, 1], at any resolution; they lie over the
            model's whole input.
        rows: whose attention: None for what the model's head reads of its last tokens (by the
            gradient of the predicted class's score), "cls", "mean", a patch (row, column) or a
            token's number.
        layers: dotted names of the layers; None is all.

    Returns:
        (B, L, H, M) in [0, 1]: for disjoint regions that cover the image the sum over M is the
        attention that the prefix tokens leave.

    Raises:
        AttentionUnavailable: no attention among patches.
        DataError: masks of a wrong shape or range.
        MethodError: layers with different numbers of heads; name layers of one stage.
    """
    graph = torch.is_grad_enabled()
    taken = Tap(model, keep="qk", graph=graph, copy=False, required=True)
    with taken:
        output = model(**x) if isinstance(x, Mapping) else model(x)
    images = next(iter(x.values())) if isinstance(x, Mapping) else x
    sites: Sequence[Site] = [s for s in taken.attention if on_picture(s, len(images))]
    if layers:
        sites = of_layers(sites, layers)
    if not sites:
        raise AttentionUnavailable(
            f"no attention among the patches of an image was found in {type(model).__name__}"
        )
    if rows is None:
        rows = rows_of_head(model, x, taken, sites, output)
    return region_mass_of(sites, masks, rows=rows)


def rows_of_head(
    model: nn.Module, x: Any, taken: Tap, sites: Sequence[Site], output: Any
) -> Tensor | str:
    """Return what the head reads of the last tokens for the predicted class, for `rows`.

    Args:
        model, x: what ran inside the tap.
        taken: the tap.
        sites: of it, the attention among patches.
        output: what the model gave.

    Returns:
        Weights (B, T), or "mean" where a pooling or windows of all patches are read.
    """
    count = sites[-1].images
    columns = resolve(None, output, batch=count)
    scores = [c.score(output) for c in columns]
    done = ForwardPass(Request(model, x, count), output, columns, tuple(scores))
    reading = Reading(done, (sites[-1],), taken.attention, stream=taken.stream)
    with preserved(model, eval_mode=False):
        rows = reading.start()[0].detach()
    plain = all(not in_places(s) and rows.shape[1] in (s.queries, s.keys) for s in sites)
    pooled = sites[-1].kind == "pooling"
    return rows if plain and not pooled else "mean"


def region_mass_of(sites: Sequence[Site], masks: Tensor, *, rows: Any = "mean") -> Tensor:
    """Return `region_mass` of attention that was read before.

    Args:
        sites: from a tap, each with a picture.
        masks, rows: as in `region_mass`, or weights (B, T) of the rows; what a head reads is not
            known here.

    Returns:
        (B, L, H, M).
    """
    if not sites:
        raise AttentionUnavailable("no attention was given")
    heads = {s.heads for s in sites}
    if len(heads) > 1:
        raise MethodError(
            f"layers have {', '.join(map(str, sorted(heads)))} heads and make no one table; name "
            "layers of one stage with layers=[...]"
        )
    masks = _checked(masks, sites[-1].images)
    return torch.stack([_mass(site, masks, rows) for site in sites], 1)


def _checked(masks: Tensor, images: int) -> Tensor:
    masks = torch.as_tensor(masks)
    masks = wide(masks if masks.is_floating_point() else masks.float())
    masks = masks[None] if masks.ndim == 3 else masks
    if masks.ndim != 4 or masks.shape[0] not in (1, images) or not masks.numel():
        raise DataError(
            f"masks have shape {tuple(masks.shape)}; expected (masks, h, w) or ({images}, masks, "
            "h, w)"
        )
    if bool(((masks < 0) | (masks > 1) | masks.isnan()).any()):
        raise DataError("masks hold values outside [0, 1]; a mask is 1 inside and 0 outside")
    return masks.expand(images, -1, -1, -1)


def _mass(site: Site, masks: Tensor, rows: Any) -> Tensor:
    """Return (images, H, M) of one site."""
    tokens = keys_of(site)
    if tokens.grid is None:
        raise AttentionUnavailable(
            f"the keys of site {site.name!r} are not the patches of a picture"
        )
    held = site._held()
    dtype = torch.float64 if held.dtype == torch.float64 else torch.float32
    # each cell's value is the share of its area that lies in the region
    cells = F.adaptive_avg_pool2d(masks.to(held.device, dtype), tokens.grid).flatten(2)
    placed = site.places() if in_places(site) else None
    if placed is None:
        columns = F.pad(cells, (tokens.prefix, 0)).transpose(1, 2)  # (B, K, M)
        if site.kind == "pooling":
            return _times(site, columns, slice(None)).mean(2)
        if isinstance(rows, Tensor):
            found = _times(site, columns, slice(None))
            rows = rows[:, : found.shape[2]]
            return torch.einsum("bq,bhqm->bhm", rows.to(found), found)
        query = _query(site, tokens_of(site), rows)
        found = _times(site, columns, query)
        return found if found.ndim == 3 else found.mean(2)
    if not isinstance(rows, str) or rows != "mean":
        raise MethodError(f"windowed attention ({site.name!r}) has the mean of its rows only")
    position = placed.position.to(held.device)
    columns = cells.transpose(1, 2)[placed.image.to(held.device), position.clamp(min=0)]
    columns = columns.masked_fill((position < 0)[..., None], 0.0)
    found = _times(site, columns, slice(None))  # (B W, H, Q, M)
    inside = (position >= 0).to(dtype)[:, None, :, None]
    total = (found * inside).sum(2).unflatten(0, (site.images, -1)).sum(1)
    return total / (tokens.count - tokens.prefix)


def _query(site: Site, tokens: Any, rows: Any) -> slice:
    if rows == "mean":
        return slice(tokens.prefix if site.queries == site.keys else 0, site.queries)
    if rows == "cls":
        if not tokens.prefix:
            raise MethodError(f"site {site.name!r} has no class token; use rows='mean'")
        return slice(0, 1)
    number = token_number(rows, tokens)
    return slice(number, number + 1)


def _times(site: Site, columns: Tensor, query: slice) -> Tensor:
    """Return A M for some queries: (B, H, Q, M)."""
    wanted = columns.shape[-1]
    if site.q is None or site.k is None:
        return site.weights(rows=query) @ columns[:, None]
    q, k = wide(site.q[:, :, query]), wide(site.k)
    if k.shape[1] not in (1, q.shape[1]):
        k = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
    k = k.expand(-1, q.shape[1], -1, -1)
    mask = site.mask
    if mask is not None:
        mask = mask if mask.shape[-2] == 1 else mask[:, :, query]
        mask = mask if mask.dtype == torch.bool else mask.to(q.dtype)
    if site.causal:
        index = torch.arange(site.queries, device=q.device)[query]
        seen = torch.arange(site.keys, device=q.device) <= index[:, None]
        mask = seen if mask is None else (
            mask & seen if mask.dtype == torch.bool else mask.masked_fill(~seen, float("-inf"))
        )  # fmt: skip
    parts = []
    width = q.shape[-1]  # the fused kernels want V as wide as Q
    for start in range(0, wanted, width):
        part = columns[..., start : start + width]
        value = F.pad(part, (0, width - part.shape[-1]))[:, None].expand(-1, q.shape[1], -1, -1)
        found = F.scaled_dot_product_attention(q, k, value, attn_mask=mask, scale=site.scale)
        parts.append(found[..., : part.shape[-1]])
    return torch.cat(parts, -1)
