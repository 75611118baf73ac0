"""LeGrad."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...attention.tap import Site
from ...attention.tap.fold import wide
from ...batching import out_of_memory
from ...errors import MethodError
from ...hooks.threads import own_thread
from ._register import register_attention
from .reading import NO_GRAPH, Reading
from .tail import skipping


def sensitivity(site: Site, gradient: Tensor) -> Tensor:
    """Return the mean over heads and queries of (ds/dA)+: (B, K), from V and ds/dO alone.

    Args:
        site: with v.
        gradient: (B, H, Q, Ev), ds/dO.
    """
    values = wide(site.values()).transpose(-2, -1)
    found = values.new_zeros(site.batch, site.keys)
    for rows in site.row_chunks():
        part = gradient[:, :, rows].to(values.dtype) @ values
        found = found + part.clamp(min=0).sum((1, 2))
    return found / (site.heads * site.queries)


@register_attention("legrad", paper="arXiv:2404.03214", units="score per attention weight",
                    needs_gradient=True, needs_tokens=True)  # fmt: skip
def legrad(
    reading: Reading,
    column: int,
    *,
    projection: Callable[[Tensor], Tensor] | None = None,
    pool: str = "mean",
) -> Tensor:
    """LeGrad: how each layer's score reacts to its own attention (Bousselham et al. 2024).

    For each layer l a score s_l is read from that layer's tokens; the map is the mean over layers
    of the mean over heads and queries of (ds_l/dA_l)+, prefix tokens left out. The paper's final
    rescaling to [0, 1] is left to the drawing.

    Args:
        reading: the forward pass.
        column: which target.
        projection: (B, T, C) tokens of a layer -> the output that targets read, e.g. logits. By
            default what the model itself does behind its last block, all of whose tokens are set
            to the pooled token; that costs what lies behind it and little more.
        pool: "mean" of all tokens of the layer, as the authors do, or "cls" for the class token.

    Returns:
        (B, h, w).

    Raises:
        MethodError: the model has no row of blocks whose tokens are those of its attention.
    """
    sites = [s for s in reading.sites if s.kind != "pooling"] or reading.sites
    blocks = [_block_of(reading, site) for site in sites]
    tokens = [reading.tokens[name] for name in blocks]
    widths = list(dict.fromkeys(z.shape[-1] for z in tokens))
    if len(widths) > 1 and projection is None:
        raise MethodError(
            "legrad reads the tokens of every block as if they were the last block's, which takes "
            f"tokens of one width; here they have {', '.join(map(str, widths))} from stage to "
            "stage. Choose layers of one stage (layer=...), or use generic_relevance or gradcam"
        )
    if not all(t.requires_grad for t in (*tokens, *(s.raw_output for s in sites))):
        raise MethodError(NO_GRAPH)
    if projection is None:
        pairs = zip(sites, tokens, strict=True)
        with torch.enable_grad():
            behind = [_pooled(z, pool, s.prefix) for s, z in pairs]
        given = _gradient_of_pooled(reading, column, behind).split(reading.batch)
    else:
        with torch.enable_grad():
            behind = [reading.columns[column].score(projection(z)) for z in tokens]
        given = [torch.ones_like(score) for score in behind]
    total = None
    for site, output, gradient in zip(sites, behind, given, strict=True):
        # from behind a block to the attention inside it, and no further
        (gradient,) = torch.autograd.grad(
            output, site.raw_output, gradient, retain_graph=True,
            create_graph=reading.create_graph,
        )  # fmt: skip
        part = sensitivity(site, site.fold_output(gradient)) / len(behind)
        total = part if total is None else total + part
    site = sites[-1]
    assert total is not None
    assert site.grid is not None
    return total[:, site.prefix :].unflatten(1, site.grid)


def _gradient_of_pooled(reading: Reading, column: int, pooled: list[Tensor]) -> Tensor:
    """Return ds_l / d(pooled token of layer l) of all layers, (L B, 1, C), by one backward pass."""
    with torch.enable_grad():
        stacked = torch.cat(pooled)
        stacked = stacked if reading.create_graph else stacked.detach().requires_grad_()
        outputs = _behind_last_block(reading, stacked, len(pooled))
        score = torch.stack([reading.columns[column].score(o).sum() for o in outputs]).sum()
    (gradient,) = torch.autograd.grad(score, stacked, create_graph=reading.create_graph)
    return gradient


def _block_of(reading: Reading, site: Site) -> str:
    """Return the name of the block that holds an attention and hands on its tokens."""
    inside = [n for n in reading.tokens if site.name == n or site.name.startswith(f"{n}.")]
    for name in sorted(inside, key=len):
        z = reading.tokens[name]
        if z.ndim == 3 and z.shape[1] == site.keys == site.queries and site.kind == "self":
            return name
    raise MethodError(
        f"legrad reads tokens (B, {site.keys}, C) behind each attention, and the block of "
        f"{site.name!r} ({site.kind}) gives none; it is made for plain vision transformers"
    )


def _pooled(tokens: Tensor, pool: str, prefix: int) -> Tensor:
    if pool == "mean":
        return tokens.mean(1, keepdim=True)
    if pool == "cls" and prefix:
        return tokens[:, :1]
    raise MethodError(f"pool={pool!r}: expected 'mean', or 'cls' where there is a class token")


def _behind_last_block(reading: Reading, stacked: Tensor, count: int) -> list[Any]:
    """Return the model's output for each layer's pooled token in place of its last tokens.

    All layers go through the rest of the model as one batch; what lies before it is not computed.
    """
    # the last block of the model, whichever layers are shown
    last = reading.model.get_submodule(list(reading.tokens)[-1])

    with skipping() as stop:

        @own_thread
        def replace(module: Any, args: Any, output: Any) -> Any:
            stop()
            first = output[0] if isinstance(output, tuple) else output
            given = stacked.expand(-1, first.shape[1], -1)
            return (given, *output[1:]) if isinstance(output, tuple) else given

        handle = last.register_forward_hook(replace)
        try:
            output = reading.forward()
        except RuntimeError as error:
            if out_of_memory(error):
                raise
            name = list(reading.tokens)[-1]
            raise MethodError(
                f"legrad runs what lies behind {name!r} on one token of each layer, and that part "
                f"of the model takes no others ({str(error).splitlines()[0]}): a residual "
                "connection passes by the block, perhaps. Use generic_relevance, or projection="
            ) from error
        finally:
            handle.remove()
    return _split(output, reading.batch, count)


def _split(output: Any, batch: int, count: int) -> list[Any]:
    """Return an output for `count` stacked batches as one for each."""
    if isinstance(output, Tensor):
        if output.shape[:1] != (batch * count,):
            raise MethodError(
                f"the model does not treat the images of a batch one by one: {count} times {batch} "
                f"tokens behind its last block gave an output {tuple(output.shape)}; pass "
                "projection="
            )
        return list(output.split(batch))
    from ...targets import logits_of

    return _split(logits_of(output), batch, count)
