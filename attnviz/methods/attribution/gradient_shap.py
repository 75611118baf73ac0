"""Gradient SHAP, or expected gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from ...errors import MethodError
from ._register import register_attribution
from ._run import Job, summed


@register_attribution("gradient_shap", paper="arXiv:1705.07874", units="score",
                      aliases=("expected_gradients",))  # fmt: skip
def gradient_shap(
    job: Job,
    *,
    samples: int = 50,
    baseline: str | Tensor = "noise",
    noise: float = 0.0,
    seed: int = 0,
) -> Tensor:
    """Gradient SHAP: integrated gradients over random baselines (Lundberg & Lee 2017).

    The mean of (x' - b) dS/dx at b + u (x' - b), u uniform in [0, 1], x' = x + N(0, noise^2), b a
    baseline drawn anew for each sample where it is "noise" (expected gradients, Erion et al.
    2021). It sums to S(x) less the mean score of the baselines, up to chance. u is drawn from
    equal strata of [0, 1], which takes away most of the chance.

    Args:
        job: the images.
        samples: gradients.
        baseline: "noise", "zero", "mean", "blur" or a tensor like the images.
        noise: standard deviation, in units of the input.
        seed: of all draws, the same for every image.

    Returns:
        (K, g, H, W), signed.
    """
    if samples < 1 or noise < 0:
        raise MethodError(f"samples={samples} is at least 1, noise={noise} not negative")
    images = job.inputs
    fixed = None if baseline == "noise" else job.baseline(baseline)

    def ends(number: int) -> tuple[Tensor, Tensor, float]:
        generator = job.group.generator(seed * 1_000_003 + number)
        u = (number + float(torch.rand((), generator=generator))) / samples
        shaken = torch.randn(images.shape[1:], generator=generator).to(images) * noise
        behind = job.baseline(baseline, seed + number) if fixed is None else fixed
        return images + shaken, behind, u

    def build(number: int) -> Tensor:
        x, behind, u = ends(number)
        return behind + u * (x - behind)

    def weigh(gradient: Tensor, number: int) -> Tensor:
        x, behind, _ = ends(number)
        return gradient * (x - behind)

    return summed([job.mean_gradient(k, samples, build, weigh) for k in job.classes])
