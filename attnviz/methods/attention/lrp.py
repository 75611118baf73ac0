"""AttnLRP and CP-LRP: relevance of each pixel, passed back through the whole transformer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...attention.tap.fold import wide
from ...errors import MethodError
from .. import Request
from ..forward import ForwardPass, forward_pass
from ._register import register_attention
from .lrp_rules import LrpMode

Passed = tuple[ForwardPass, list[Tensor]]


def _propagate(request: Request, *, constant: bool) -> Passed:
    """Return the pass and maps (B, H, W) of Gradient x Input under the rules."""
    if not isinstance(request.inputs, torch.Tensor):
        raise MethodError("relevance propagation explains one image tensor, not named inputs")
    if not request.inputs.is_floating_point():
        raise MethodError("relevance propagation needs a floating-point image")
    if request.create_graph:
        raise MethodError(
            "relevance propagation cannot be trained on: its rules hold normalisations and halves "
            "constant, so the graph of the map is not its derivative; use generic_relevance, "
            "legrad or a CAM"
        )
    inputs = request.inputs.detach().requires_grad_()

    def forward() -> Any:
        with LrpMode(constant):
            return request.model(inputs)

    with torch.enable_grad():
        done = forward_pass(request, forward=forward)
    maps = []
    for i, score in enumerate(done.scores):
        keep = i + 1 < len(done.scores)
        (gradient,) = torch.autograd.grad(
            score,
            inputs,
            torch.ones_like(score),
            retain_graph=keep,
        )
        maps.append((wide(gradient) * wide(inputs)).sum(1))
    return done, maps


@register_attention("attnlrp", paper="arXiv:2402.05602", units="score", own_pass=True,
                    needs_gradient=True, aliases=("attn-lrp",))  # fmt: skip
def attnlrp(request: Request) -> Passed:
    """AttnLRP as Gradient x Input (Achtibat et al. 2024): signed relevance of each pixel.

    Products of two activations pass half to each factor, the softmax passes relevance by its
    gradient, normalisations take their deviation as constant, activation functions pass all to
    their input; linear layers as they are (the 0-rule). Summed over colour channels. Differs from
    the paper for images in that no gamma rule smooths convolutions and linear layers.

    Returns:
        Maps (B, H, W) at the input's resolution, positive for and negative against the score.
    """
    return _propagate(request, constant=False)


@register_attention("cplrp", paper="arXiv:2202.07304", units="score", own_pass=True,
                    needs_gradient=True, aliases=("cp-lrp",))  # fmt: skip
def cplrp(request: Request) -> Passed:
    """CP-LRP as Gradient x Input (Ali et al. 2022): attention weights taken as constants.

    Relevance passes through the values alone; normalisations take their deviation as constant.
    Activation functions pass all to their input, as in AttnLRP. Summed over colour channels.

    Returns:
        Maps (B, H, W) at the input's resolution, positive for and negative against the score.
    """
    return _propagate(request, constant=True)
