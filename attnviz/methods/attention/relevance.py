"""Generic relevance for models with cross-attention: words to patches, queries to image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...attention.tap import Site, Tap
from ...attention.tap.site import same_block
from ...errors import AttentionUnavailable, MethodError
from ...hooks import eager, preserved, unwrap
from ...targets import resolve
from .steps import gradient_rows


@dataclass(frozen=True, eq=False)
class Relevance:
    """What each query token owes to each token of its own side and of the other side.

    Attributes:
        query: (B, Q, Q), relevance among the query side (words, object queries). R_qq.
        source: (B, S, S), relevance among the source side (image patches, source words). R_ss.
        cross: (B, Q, S), relevance of source tokens for query tokens. R_qs.
        score: (B,) what was explained.
        prefix, grid: of the source tokens, as in `Site`; grid None where they are no picture.
    """

    query: Tensor
    source: Tensor
    cross: Tensor
    score: Tensor
    prefix: int = 0
    grid: tuple[int, int] | None = None

    def picture(self, query: int) -> Tensor:
        """Return the relevance of the source's patches for one query token: (B, h, w).

        Raises:
            AttentionUnavailable: the source is no picture.
        """
        if self.grid is None:
            raise AttentionUnavailable("the source tokens are no picture; read .cross instead")
        return self.cross[:, query, self.prefix :].unflatten(1, self.grid)


def relevance(
    model: nn.Module, inputs: Tensor | Mapping[str, Any], *, target: Any = None
) -> Relevance:
    """Return generic attention relevance of an encoder-decoder (Chefer et al. 2021b).

    Layer by layer, with Ā = E_h[(dS/dA * A)+] (arXiv:2103.15679, equations 5 to 11):
    self-attention among sources R_ss += Ā R_ss; among queries R_qq += Ā R_qq and R_qs += Ā R_qs;
    cross-attention R_qs += R̂_qqᵀ Ā R̂_ss, where R̂ is R with what it has beyond the identity
    divided by its row sums. Begun with R_qq = R_ss = I, R_qs = 0. Works on T5, BART, DETR, image
    captioners, `nn.Transformer`; the model is left as it was.

    Args:
        model: a model with self- and cross-attention.
        inputs: the batch, or keyword arguments.
        target: what is explained, as in `explain`, usually a function of the output such as
            `lambda out: out.logits[:, 3, 17]` (query 3, class 17).

    Returns:
        Matrices of tokens by tokens.

    Raises:
        AttentionUnavailable: there is no cross-attention.
        MethodError: the score does not depend on the attention; layers do not fit together.
    """
    module = unwrap(model)
    taken = Tap(module, keep="all", graph=True, copy=False, required=True, restart=True)
    with torch.inference_mode(False), eager(module), preserved(module):
        with torch.no_grad(), taken:
            output = module(**inputs) if isinstance(inputs, Mapping) else module(inputs)
            first = inputs if isinstance(inputs, Tensor) else next(
                v for v in inputs.values() if isinstance(v, Tensor)
            )  # fmt: skip
            score = resolve(target, output, batch=len(first))[0].score(output)
        sites = [s for s in taken.attention if s.kind in ("self", "cross") and s.windows == 1]
        outputs = [s.raw_output for s in sites]
        gradients = torch.autograd.grad(score, outputs, torch.ones_like(score), allow_unused=True)
    if all(g is None for g in gradients):
        raise MethodError("the score does not depend on any attention that was read")
    folded = [
        s.fold_output(torch.zeros_like(raw) if g is None else g)
        for s, raw, g in zip(sites, outputs, gradients, strict=True)
    ]
    return relevance_of(sites, folded, score.detach())


@torch.no_grad()
def relevance_of(
    sites: Sequence[Site], gradients: Sequence[Tensor], score: Tensor | None = None
) -> Relevance:
    """Return `relevance` from attention and dS/dO that were read before.

    Args:
        sites: self- and cross-attention in the order of the forward pass, with q, k, v.
        gradients: dS/dO of each, (B, H, Q, Ev).
        score: (B,), handed through.
    """
    crosses = [s for s in sites if s.kind == "cross"]
    if not crosses:
        raise AttentionUnavailable(
            "no cross-attention was found; for self-attention alone use the map 'generic_relevance'"
        )
    queries, sources = crosses[-1].queries, crosses[-1].keys
    like = gradients[0]
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    eye = {n: torch.eye(n, dtype=dtype, device=like.device) for n in (queries, sources)}
    batch = crosses[-1].batch
    r_qq = eye[queries].expand(batch, -1, -1).clone()
    r_ss = eye[sources].expand(batch, -1, -1).clone()
    r_qs = r_qq.new_zeros(batch, queries, sources)
    for site, gradient in zip(sites, gradients, strict=True):
        fused = gradient_rows(site, gradient)(slice(None), slice(None)).mean(1).to(dtype)
        if site.kind == "cross":
            if (site.queries, site.keys) != (queries, sources):
                raise MethodError(
                    f"cross-attention {site.name!r} is {site.queries} x {site.keys}, the others "
                    f"{queries} x {sources}"
                )
            r_qs = r_qs + _normalised(r_qq).transpose(1, 2) @ fused @ _normalised(r_ss)
        elif _is_source(site, crosses, queries, sources):
            r_ss = r_ss + fused @ r_ss
        else:
            r_qq, r_qs = r_qq + fused @ r_qq, r_qs + fused @ r_qs
    last = crosses[-1]
    score = r_qq.new_zeros(batch) if score is None else score
    return Relevance(r_qq, r_ss, r_qs, score, last.prefix, last.grid)


def _normalised(relevance: Tensor) -> Tensor:
    """Divide what a relevance matrix has beyond the identity by its row sums."""
    eye = torch.eye(relevance.shape[-1], dtype=relevance.dtype, device=relevance.device)
    beyond = relevance - eye
    total = beyond.sum(-1, keepdim=True)
    return beyond / total.masked_fill(total == 0, 1.0) + eye


def _is_source(site: Site, crosses: Sequence[Site], queries: int, sources: int) -> bool:
    """Say whether self-attention is among source tokens rather than among queries."""
    if any(same_block(site.name, c.name) for c in crosses):
        return False
    if site.keys not in (queries, sources) or site.queries != site.keys:
        raise MethodError(
            f"self-attention {site.name!r} has {site.queries} x {site.keys} tokens, which are "
            f"neither the {queries} queries nor the {sources} sources"
        )
    return site.keys == sources
