"""Integrated gradients."""

from __future__ import annotations

from torch import Tensor

from ...errors import MethodError
from ._register import register_attribution
from ._run import Job, summed


@register_attribution("integrated_gradients", paper="arXiv:1703.01365", units="score",
                      aliases=("ig",))  # fmt: skip
def integrated_gradients(
    job: Job,
    *,
    steps: int = 50,
    baseline: str | Tensor = "zero",
    seed: int = 0,
) -> Tensor:
    """Integrated gradients: the gradient along the way from a baseline (Sundararajan et al. 2017).

    (x - b) times the mean gradient from b to x (Gauss-Legendre, by captum), summed over channels.
    It sums to S(x) - S(b); the gap is the result's meta["convergence_delta"], warned of above 5 %.

    Args:
        job: the images.
        steps: of the integral.
        baseline: "zero", "mean", "blur", "noise" or a tensor like the images.
        seed: of a noisy baseline.

    Returns:
        (K, g, H, W), signed.
    """
    from captum.attr import IntegratedGradients

    if steps < 1:
        raise MethodError(f"steps={steps} is at least 1")
    behind = job.baseline(baseline, seed)
    found = [
        IntegratedGradients(job.score(k)).attribute(
            job.inputs.detach(), behind, n_steps=steps,
            internal_batch_size=max(job.rows, len(job.inputs)),
        ).to(job.inputs.dtype)
        for k in job.classes
    ]  # fmt: skip
    job.complete(found, behind)
    return summed(found)
