"""ShapleyCAM."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ...errors import MethodError
from .. import Request
from ..forward import ForwardPass
from ..twin import twin
from ._register import register_cam
from ._run import OwnMaps, read_own


def shapley_gradient(done: ForwardPass, column: int) -> dict[str, Tensor]:
    """Return g - H a / 2 of each layer, (B, C, h, w), of a pass made with `create_graph`.

    For a score that is quadratic in the activation, a (g - H a / 2) are the exact Shapley values
    of its elements, zero being what an absent element is.
    """
    assert done.captured is not None
    raw = done.captured.activations
    gradients = done.gradients(column, read_off=False)
    found = {}
    for name, gradient in gradients.items():
        curved = None
        if gradient.requires_grad:  # else the score is linear in the activation
            pull = (gradient * done.activations[name].detach()).sum()
            (curved,) = torch.autograd.grad(pull, raw[name], retain_graph=True, allow_unused=True)
        found[name] = gradient.detach()
        if curved is not None:
            found[name] = found[name] - done.layouts[name].to_spatial(curved) / 2
    return found


@register_cam("shapleycam", paper="arXiv:2501.06261", units="score", own_pass=True)
def shapleycam(request: Request) -> OwnMaps:
    """ShapleyCAM: Grad-CAM with the Shapley values' second-order term (Cai 2025).

    w_k = GAP(g - H a / 2), g and H being the score's gradient and Hessian at the activation, and
    M = ReLU(sum_k w_k A_k). Where the score is piecewise linear in the activation (ReLU networks)
    H is zero and it is Grad-CAM; the difference shows behind GELU, softmax or normalisation, and
    with a probability as target.

    Args:
        request: what to explain.
    """
    if request.create_graph:
        raise MethodError("shapleycam keeps no graph (create_graph=True); use gradcam")
    # without gradients for its weights only what stands behind the layer is recorded
    done = read_own(replace(request, model=twin(request.model), create_graph=True), any_rank=True)
    maps: dict[str, list[Tensor]] = {name: [] for name in done.activations}
    for number in range(len(done.columns)):
        for name, gradient in shapley_gradient(done, number).items():
            activation = done.activations[name].detach()
            axes = tuple(range(2, activation.ndim))
            values = (gradient.mean(axes, keepdim=True) * activation).sum(1)
            maps[name].append(values)
    return replace(done, request=request), maps, {}
