"""Input times gradient."""

from __future__ import annotations

from torch import Tensor

from ._register import register_attribution
from ._run import Job, summed


@register_attribution("input_x_gradient", paper="arXiv:1605.01713", units="score",
                      aliases=("inputxgradient",))  # fmt: skip
def input_x_gradient(job: Job) -> Tensor:
    """Input x gradient: x dS/dx, summed over channels (Shrikumar et al. 2016).

    In a network of ReLUs without biases it sums to the score. Zero in the input's units (with the
    usual normalisation the data set's mean colour) has no part by construction.

    Args:
        job: the images.

    Returns:
        (K, g, H, W), signed.
    """
    return summed([job.inputs * job.gradient(job.inputs, k) for k in job.classes])
