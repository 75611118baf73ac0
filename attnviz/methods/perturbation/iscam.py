"""IS-CAM: Score-CAM integrated over the strength of its masks."""

from __future__ import annotations

import torch
from torch import Tensor

from ...errors import MethodError
from ...geometry import size_of
from ..altered import AlteredGroup
from ._masks import channel_masks, masked, weighted
from ._register import register_perturbation
from ._run import Layer


@register_perturbation("iscam", paper="arXiv:2010.03023", units="activation", reads_layer=True,
                       signed=False, aliases=("is-cam",))  # fmt: skip
def iscam(group: AlteredGroup, layer: Layer, *, samples: int = 10) -> Tensor:
    """IS-CAM: Score-CAM averaged over masks of rising strength (Naidu et al. 2020).

    w = softmax over channels of the mean over i = 1 ... samples of S(x * (i / samples) m_k), m_k
    being Score-CAM's mask. With samples=1 it is Score-CAM. torchcam adds the strengths up as it
    goes (1, 3, 6, ... of N), which leaves [0, 1]; the paper integrates from 0 to 1.

    Args:
        group: the images.
        layer: its activation.
        samples: steps of the integral; it costs as many times Score-CAM.

    Returns:
        (K, g, h, w).
    """
    if samples < 1:
        raise MethodError(f"samples={samples} is at least 1")
    size = size_of(group.inputs)
    channels = layer.activation.shape[1]

    def build(start: int, stop: int) -> Tensor:
        # copies of one channel stand together
        first, last = start // samples, (stop - 1) // samples + 1
        masks = channel_masks(layer, size, first, last)
        jobs = torch.arange(start, stop, device=masks.device)
        strength = (jobs % samples + 1) / samples
        return masked(group, masks[jobs // samples - first] * strength[:, None, None, None])

    scores = torch.cat([s for _, _, s in group.each(channels * samples, build, "IS-CAM")], 1)
    gains = scores.unflatten(1, (channels, samples)).mean(2)
    return weighted(layer.activation, gains.transpose(1, 2))
