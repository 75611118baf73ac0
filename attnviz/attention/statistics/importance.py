"""How much the score would change if a head were turned down."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import AttentionUnavailable
from ...hooks import preserved, unwrap
from ...targets import resolve
from ..tap import Tap


def head_importance(
    model: nn.Module,
    inputs: Tensor | Mapping[str, Any],
    *,
    target: Any = None,
    loss: Any = None,
) -> dict[int, Tensor]:
    """Return |d score / d gate| of every head, where a gate of 1 multiplies the head's output.

    To first order it is the change of the score when the head is removed (Michel et al. 2019,
    arXiv:1905.10650): |sum over tokens and channels of dS/dO * O|, averaged over the samples. One
    forward and one backward for all heads; the model is left as it was.

    Args:
        model: any model that `attention.tap` reads.
        inputs: a batch, or keyword arguments.
        target: as in `explain`.
        loss: a function of the model's output that returns one score per sample, instead of a
            target.

    Returns:
        {index of the site: (H,) float64}, for sites that the score depends on.

    Raises:
        AttentionUnavailable: no site's output could be differentiated.
    """
    module = unwrap(model)
    # the graph begins at the first attention, so frozen parameters are no obstacle
    taken = Tap(module, keep="all", graph=True, copy=False, required=True, restart=True)
    with torch.inference_mode(False), torch.no_grad(), preserved(module), taken:
        output = module(**inputs) if isinstance(inputs, Mapping) else module(inputs)
        batch = _batch(inputs)
        column = resolve(loss if loss is not None else target, output, batch=batch)[0]
        score = column.score(output)
    # raw_output is the tensor in the graph; output may be a view beside it (folded heads)
    sites = [s for s in taken.attention if s.raw_output.requires_grad]
    if not sites or not score.requires_grad:
        raise AttentionUnavailable(
            "the score does not depend on any attention output that can be differentiated; check "
            "the target, and that the model does not run under its own torch.no_grad()"
        )
    gradients = torch.autograd.grad(
        score, [s.raw_output for s in sites], torch.ones_like(score), allow_unused=True
    )
    found = {}
    for site, gradient in zip(sites, gradients, strict=True):
        if gradient is None or site.output is None:
            continue
        gradient = site.fold_output(gradient)
        change = (gradient.double() * site.output.detach().double()).sum((-2, -1))  # (B W, H)
        change = change.view(batch, -1, site.heads).sum(1) if site.windows > 1 else change
        found[site.index] = change.abs().mean(0).cpu()
    return found


def _batch(inputs: Any) -> int:
    if isinstance(inputs, Tensor):
        return len(inputs)
    return next(len(v) for v in inputs.values() if isinstance(v, Tensor) and v.ndim)
