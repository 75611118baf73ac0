"""Score-CAM."""

from __future__ import annotations

import torch
from torch import Tensor

from ...geometry import size_of
from ..altered import AlteredGroup
from ._masks import channel_masks, masked, weighted
from ._register import register_perturbation
from ._run import Layer


@register_perturbation(
    "scorecam", paper="arXiv:1910.01279", units="activation", reads_layer=True,
    aliases=("score-cam",), signed=False,
)  # fmt: skip
def scorecam(group: AlteredGroup, layer: Layer) -> Tensor:
    """Score-CAM: a channel weighs the score of the picture masked by it (Wang et al. 2020).

    M = ReLU(sum_k w_k A_k) with w = softmax over channels of S(x * N(up(A_k))), N stretching to
    [0, 1]. The score of a black baseline, which the paper subtracts, cancels in the softmax.
    A constant channel makes no mask and gets no weight. The score is the target's, by default the
    logit; the authors' code takes the probability: target=attnviz.Probability(c).

    Args:
        group: the images.
        layer: its activation.

    Returns:
        (K, g, h, w).
    """
    size = size_of(group.inputs)

    def build(start: int, stop: int) -> Tensor:
        return masked(group, channel_masks(layer, size, start, stop))

    channels = layer.activation.shape[1]
    gains = torch.cat([s for _, _, s in group.each(channels, build, "Score-CAM")], 1)
    return weighted(layer.activation, gains.transpose(1, 2))
