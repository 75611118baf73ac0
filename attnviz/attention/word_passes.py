"""One more pass over a prompt and the answer written to it: rollout, gradients, probabilities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import AttentionUnavailable, MethodError
from ..hooks import eager, preserved
from ..models.text import with_answer
from .image_tokens import ImageTokens
from .tap import Site, Tap


def log_rows(module: Any, inputs: Mapping[str, Any], written: Tensor) -> Tensor:
    """Return (T, V) log-probabilities at each place of an answer, read in one pass."""
    with torch.no_grad(), preserved(module, eval_mode=True):
        logits = module(**with_answer(module, inputs, written)).logits
    return logits[0, -len(written) :].float().log_softmax(-1).cpu()


def log_probabilities(module: Any, inputs: Mapping[str, Any], written: Tensor) -> Tensor:
    """Return (T,) log-probability of each token of an answer, read in one pass."""
    rows = log_rows(module, inputs, written)
    return rows.gather(1, written[:, None].to(rows.device))[:, 0]


def rolled(
    module: Any, inputs: Mapping[str, Any], written: Tensor, place: ImageTokens,
    names: Sequence[str],
) -> Tensor:  # fmt: skip
    """Return the rollout (T, P) of each token over the image tokens."""
    from ..methods.attention.rollout import rollout

    tap = Tap(module, keep="qk", graph=False, copy=False, required=True)
    with torch.no_grad(), preserved(module, eval_mode=True), tap:
        module(**with_answer(module, inputs, written))
    starts = _starts(inputs, written)
    sites = _all_tokens(tap, place, names, starts.shape[-1], "rollout")
    made = torch.cat([rollout(sites, start) for start in starts])
    return made.cpu()[:, place.positions.cpu()]


def weighted(
    module: Any, inputs: Mapping[str, Any], written: Tensor, place: ImageTokens,
    names: Sequence[str],
) -> Tensor:  # fmt: skip
    """Return (T, P): of the row that writes each token, (A * d logit / dA)+ over image tokens.

    Mean over heads and layers (Chefer et al. 2021, arXiv:2103.15679, equation 5, of the row that
    writes). dA = dO Vᵀ, so no matrix of tokens by tokens is made.
    """
    from ..methods.attention.steps import attend, gradient_rows

    tap = Tap(module, keep="all", graph=True, copy=False, required=True, restart=True)
    with torch.inference_mode(False), eager(module), preserved(module, eval_mode=True):
        with torch.no_grad(), tap:
            logits = module(**with_answer(module, inputs, written)).logits
        starts = _starts(inputs, written)
        sites = _all_tokens(tap, place, names, starts.shape[-1], "gradient")
        made = []
        for start, row, token in zip(starts, logits[0, -len(starts) :], written, strict=True):
            gradients = torch.autograd.grad(
                row[token], [s.raw_output for s in sites], retain_graph=True, allow_unused=True
            )
            parts = [
                attend(site, start, None, weights=gradient_rows(site, site.fold_output(gradient)))
                for site, gradient in zip(sites, gradients, strict=True)
                if gradient is not None
            ]
            made.append(torch.cat(parts).detach().sum(0) / len(sites))
    return torch.stack(made).cpu()[:, place.positions.cpu()]


def _starts(inputs: Mapping[str, Any], written: Tensor) -> Tensor:
    """Return (T, 1, N): for each token written, 1 at the token of all N that it is read from."""
    prompt = inputs["input_ids"]
    count = prompt.shape[1] + len(written) - 1
    rows = torch.arange(count - len(written), count, device=prompt.device)
    return F.one_hot(rows, count)[:, None].float()


def _all_tokens(
    tap: Tap, place: ImageTokens, names: Sequence[str], count: int, method: str
) -> list[Site]:
    """Return the layers that the words were read in, over the prompt and the answer."""
    if place.crossed:
        raise MethodError(f"{method} needs image tokens among the words; use 'attention'")
    known = set(names)
    sites = [s for s in tap.attention if s.name in known and s.queries == s.keys == count]
    if len(sites) != len(names):
        raise AttentionUnavailable(
            f"{len(sites)} of {len(names)} layers of the words were read over all tokens"
        )
    return sites
