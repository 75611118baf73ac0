"""Grad-ECLIP."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ...attention.tap.fold import wide
from ...errors import MethodError
from ._register import register_attention
from .reading import Reading


@register_attention("grad_eclip", paper="arXiv:2502.18816", units="score",
                    needs_gradient=True, per_layer=True, aliases=("grad-eclip",))  # fmt: skip
def grad_eclip(reading: Reading, column: int, *, rescale: bool = True) -> Tensor:
    """Grad-ECLIP for CLIP: values weighted by the score's gradient (Zhao et al. 2024).

    ReLU(sum_c dS/do_cls,c  v_i,c  l_i) with l_i the cosine of q_cls and k_i: the attention's
    sharp softmax is replaced by a loose similarity. o, q, k, v are those of one layer (the last
    by default), heads side by side. Made for CLIP's similarities: explain with
    `TextTarget("a boat")`.

    Args:
        reading: the forward pass.
        column: which target.
        rescale: bring the cosines of an image to [0, 1] by their minimum and maximum, as the
            authors' code does; False takes them as they are.

    Returns:
        (B, h, w), >= 0, in units of the score if not rescaled.

    Raises:
        MethodError: the layer has no class token, or its attention is written out so that q and
            k are not to be had.
    """
    site = reading.last
    if not site.prefix or site.kind != "self" or site.grid is None:
        raise MethodError(
            f"grad_eclip needs a class token in front of patches; {site!r} has none (for SigLIP, "
            "which pools its patches, use legrad or generic_relevance)"
        )
    if site.q is None or site.k is None or site.v is None:
        raise MethodError(
            f"{site.name!r} writes its softmax out, so q and k were not seen; load the model with "
            "attn_implementation='sdpa' (or fused attention)"
        )
    gradient = wide(reading.gradient(site, column))[:, :, 0]
    values = wide(site.values())[:, :, site.prefix :]
    query = wide(site.q)[:, :, 0].flatten(1)
    keys = wide(site.k)
    if keys.shape[1] != site.heads:
        keys = keys.repeat_interleave(site.heads // keys.shape[1], 1)
    keys = keys[:, :, site.prefix :].transpose(1, 2).flatten(2)
    near = torch.einsum("bc,bkc->bk", F.normalize(query, dim=-1), F.normalize(keys, dim=-1))
    if rescale:
        low, high = near.amin(1, keepdim=True), near.amax(1, keepdim=True)
        near = (near - low) / (high - low).masked_fill(high == low, 1.0)
    product = torch.einsum("bhc,bhkc->bk", gradient, values.expand(-1, site.heads, -1, -1))
    return (product * near).relu().unflatten(1, site.grid)
