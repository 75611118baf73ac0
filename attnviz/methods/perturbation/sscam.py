"""SS-CAM: Score-CAM with noise."""

from __future__ import annotations

import torch
from torch import Tensor

from ...errors import MethodError
from ...geometry import size_of
from ..altered import AlteredGroup
from ._masks import channel_masks, masked, stretched, upsampled, weighted
from ._register import register_perturbation
from ._run import Layer

PLACES = ("activation", "input")


@register_perturbation("sscam", paper="arXiv:2006.14255", units="activation", reads_layer=True,
                       signed=False, aliases=("ss-cam",))  # fmt: skip
def sscam(
    group: AlteredGroup,
    layer: Layer,
    *,
    samples: int = 10,
    noise: float = 2.0,
    where: str = "activation",
    seed: int = 0,
) -> Tensor:
    """SS-CAM: Score-CAM's scores averaged over noise (Wang et al. 2020).

    w = softmax over channels of the mean score over `samples` draws of N(0, noise^2). With
    where="activation" (the paper's first form) the noise is added to the channel before it is
    upsampled and stretched to a mask; with where="input" (its second) to the masked picture. With
    noise=0 it is Score-CAM; a constant channel has no weight here either. torchcam adds noise to
    the finished mask instead, which leaves [0, 1].

    Args:
        group: the images.
        layer: its activation.
        samples: draws for each channel; it costs as many times Score-CAM.
        noise: standard deviation, in units of the activation or of the input.
        where: "activation" or "input".
        seed: of the noise, the same for every image.

    Returns:
        (K, g, h, w).
    """
    if where not in PLACES:
        raise MethodError(f"where={where!r} is one of {', '.join(PLACES)}")
    if samples < 1 or noise < 0:
        raise MethodError(f"samples={samples} is at least 1, noise={noise} not negative")
    size = size_of(group.inputs)
    activation = layer.activation
    channels = activation.shape[1]

    def draw(job: int, shape: torch.Size) -> Tensor:
        # by the copy's number, so that the size of a pass does not matter
        numbers = torch.randn(shape, generator=group.generator(seed * 1_000_003 + job))
        return numbers.to(group.inputs) * noise

    def build(start: int, stop: int) -> Tensor:
        jobs = range(start, stop)
        if where == "input":
            first, last = start // samples, (stop - 1) // samples + 1
            masks = channel_masks(layer, size, first, last)
            kept = masked(group, masks[[j // samples - first for j in jobs]])
            return kept + torch.stack([draw(j, kept.shape[2:]) for j in jobs])[:, None]
        noisy = [activation[:, j // samples] + draw(j, activation.shape[2:]) for j in jobs]
        return masked(group, stretched(upsampled(torch.stack(noisy), size)))

    scores = torch.cat([s for _, _, s in group.each(channels * samples, build, "SS-CAM")], 1)
    gains = scores.unflatten(1, (channels, samples)).mean(2)
    return weighted(activation, gains.transpose(1, 2))
