"""SmoothGrad."""

from __future__ import annotations

import torch
from torch import Tensor

from ...errors import MethodError
from ._register import register_attribution
from ._run import Job

KINDS = ("smoothgrad", "squared", "variance")


@register_attribution("smoothgrad", paper="arXiv:1706.03825", units="score / input", signed=None)
def smoothgrad(
    job: Job,
    *,
    samples: int = 25,
    noise: float = 0.15,
    kind: str = "smoothgrad",
    seed: int = 0,
) -> Tensor:
    """SmoothGrad: the gradient averaged over noisy pictures (Smilkov et al. 2017).

    The mean of dS/dx over x + N(0, s^2), s being `noise` times the picture's range; then, as in
    saliency, the largest absolute value of the channels. "squared" averages squared gradients
    (SmoothGrad-Squared, Hooker et al. 2019), "variance" is their variance (VarGrad, Adebayo et al.
    2018).

    Args:
        job: the images.
        samples: noisy pictures.
        noise: as a share of the picture's range.
        kind: "smoothgrad", "squared" or "variance".
        seed: of the noise, the same for every image.

    Returns:
        (K, g, H, W), not negative.
    """
    if kind not in KINDS or samples < 1 or noise < 0:
        raise MethodError(
            f"kind={kind!r} is one of {', '.join(KINDS)}, samples={samples} at least 1, "
            f"noise={noise} not negative"
        )
    images = job.inputs
    flat = images.flatten(1)
    spread = noise * (flat.amax(1) - flat.amin(1)).view(-1, *[1] * (images.ndim - 1))

    def build(number: int) -> Tensor:
        generator = job.group.generator(seed * 1_000_003 + number)
        return images + spread * torch.randn(images.shape[1:], generator=generator).to(images)

    maps = []
    for k in job.classes:
        mean = squared = images
        if kind != "squared":
            mean = job.mean_gradient(k, samples, build, lambda g, n: g)
        if kind != "smoothgrad":
            squared = job.mean_gradient(k, samples, build, lambda g, n: g.square())
        values = {"smoothgrad": mean, "squared": squared, "variance": squared - mean.square()}
        maps.append(values[kind].abs().amax(1))
    return torch.stack(maps)
