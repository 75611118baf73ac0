"""Guided backpropagation."""

from __future__ import annotations

from torch import Tensor

from ...errors import MethodError
from ._register import register_attribution
from ._rules import guided
from ._run import Job, summed


def guided_gradients(job: Job) -> list[Tensor]:
    """Return the guided gradient (g, C, H, W) for each class.

    Raises:
        MethodError: no ReLU ran, and the gradient would be the plain one.
    """
    found = []
    for k in job.classes:
        with guided() as rules:
            found.append(job.gradient(job.inputs, k))
        if not rules.met:
            raise MethodError(
                f"no ReLU ran in {type(job.request.model).__name__}: guided backpropagation is "
                "about ReLUs, and would be the plain gradient here; use saliency or "
                "integrated_gradients"
            )
    return found


@register_attribution("guided_backprop", paper="arXiv:1412.6806", units="score / input")
def guided_backprop(job: Job) -> Tensor:
    """Guided backpropagation: ReLUs pass positive gradients only (Springenberg et al. 2015).

    Summed over channels. It shows edges that the network can see, for every class much alike; it
    hardly changes when the last layers are made random (Adebayo et al. 2018, arXiv:1810.03292).

    Args:
        job: the images.

    Returns:
        (K, g, H, W), signed.
    """
    return summed(guided_gradients(job))
