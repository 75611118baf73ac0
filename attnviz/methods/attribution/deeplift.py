"""DeepLIFT."""

from __future__ import annotations

import torch
from torch import Tensor

from ._register import register_attribution
from ._rules import rescale
from ._run import Job, summed


@register_attribution("deeplift", paper="arXiv:1704.02685", units="score")
def deeplift(
    job: Job,
    *,
    baseline: str | Tensor = "zero",
    seed: int = 0,
) -> Tensor:
    """DeepLIFT: differences from a baseline, passed back by the rescale rule (Shrikumar 2017).

    Each elementwise function has the slope of its own difference, f(x) - f(b) over x - b; at max
    pools the difference goes to the maxima. It sums to S(x) - S(b) in networks of linear layers,
    such functions and max pools; products of activations (attention, squeeze and excitation) and
    layer norms leave a gap, which is meta["convergence_delta"] and warned of above 5 %.

    Args:
        job: the images.
        baseline: "zero", "mean", "blur", "noise" or a tensor like the images.
        seed: of a noisy baseline.

    Returns:
        (K, g, H, W), signed.
    """
    behind = job.baseline(baseline, seed)
    found = []
    for k in job.classes:
        with rescale():
            gradient = job.gradient(torch.cat([job.inputs, behind]), k).chunk(2)[0]
        found.append(gradient * (job.inputs - behind))
    job.complete(found, behind)
    return summed(found)
