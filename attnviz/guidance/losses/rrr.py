"""Right for the right reasons: no sensitivity to pixels outside the object."""

from __future__ import annotations

import torch
from torch import Tensor

from ...errors import GuidanceError
from ...geometry import size_of
from ._base import LossInput, mean_over, register_loss


@register_loss("rrr", paper="arXiv:1703.03717", needs=("input_gradient",), mapped=False)
def rrr(scene: LossInput, *, explained: str = "all", reduction: str = "sum") -> dict[str, Tensor]:
    """RRR: sum over the outside of (d sum_k log p_k / dx)^2 (Ross et al. 2017).

    Costs about five plain training steps: the gradient reaches back to the pixels and is
    differentiated again.

    Args:
        scene: made by `class_map(..., input_gradient=True)`.
        explained: "all" sums log p over the classes (the paper's); "target" takes the image's own.
        reduction: "sum" over pixels and channels (the paper's) or "mean".

    Returns:
        {"sensitivity": at least 0}.
    """
    seen = scene.need("gradients of the input")
    if not seen.images.requires_grad:
        raise GuidanceError(
            "RRR needs the graph back to the pixels; call class_map(..., input_gradient=True)"
        )
    logits = seen.logits
    logits = logits if logits.dtype == torch.float64 else logits.float()
    log_p = logits.log_softmax(1)
    score = log_p.sum() if explained == "all" else log_p.gather(1, seen.classes[:, None]).sum()
    (gradient,) = torch.autograd.grad(score, seen.images, create_graph=True)
    given = scene.annotation.at(size_of(seen.images), gradient)
    outside = (given.known * (1 - given.target))[:, None]
    squares = (outside * gradient).square()
    per_image = squares.sum((1, 2, 3)) if reduction == "sum" else squares.mean((1, 2, 3))
    return {"sensitivity": mean_over(per_image, given)}
