"""Ablation-CAM."""

from __future__ import annotations

import torch
from torch import Tensor

from ..altered import AlteredGroup
from ._register import register_perturbation
from ._run import Layer


@register_perturbation(
    "ablationcam", paper="doi:10.1109/WACV45572.2020.9093360", units="score x activation",
    reads_layer=True, runs_tail=True, signed=False,
)  # fmt: skip
def ablationcam(group: AlteredGroup, layer: Layer) -> Tensor:
    """Ablation-CAM: a channel weighs what the score loses without it (Desai & Ramaswamy 2020).

    w_k = y - y_k, y_k being the score with channel k set to zero at every position that the map
    shows (prefix tokens stay), and M = ReLU(sum_k w_k A_k). Only the part of the model behind the
    layer is run for it; where that is one linear layer on the average, w_k is read off: the
    score's weight times the channel's mean.

    Differs from the paper in not dividing by y, which has no effect on the picture where y > 0
    and turns it into its negative where y < 0.

    Args:
        group: the images.
        layer: its activation.

    Returns:
        (K, g, h, w).
    """
    activation = layer.activation
    drops = _analytic(group, layer)
    if drops is None:
        drops = _measured(group, layer)
    return torch.einsum("kgc,gchw->kghw", drops.to(activation), activation)


def _analytic(group: AlteredGroup, layer: Layer) -> Tensor | None:
    """The drops (K, g, C) where the score is linear in the channels' means."""
    if layer.head is None:
        return None
    weight = layer.head.weight.detach().to(layer.activation.dtype)
    mean = layer.activation.mean((-2, -1))
    drops = []
    for column in group.passes.columns:
        if any(t.linear is None for t in column.targets):
            return None
        coefficients = column.coefficients(len(weight), mean.new_empty(1, len(weight)))
        assert coefficients is not None
        drops.append((group.of(coefficients) @ weight) * mean)
    return torch.stack(drops)


def _measured(group: AlteredGroup, layer: Layer) -> Tensor:
    """The drops (K, g, C), from one pass of the tail for each channel."""
    tail = layer.tail(group)
    raw, layout = layer.raw, layer.layout
    channels = layer.activation.shape[1]
    found = []

    def build(start: int, stop: int) -> Tensor:
        copies = raw.expand(stop - start, *raw.shape).clone()
        for number, channel in enumerate(range(start, stop)):
            # a view of the copy, so that what it shows is set in place
            layout.to_spatial(copies[number])[:, channel] = 0
        return copies

    for _, _, scores in group.each(channels, build, "Ablation-CAM", run=tail):
        found.append(scores)
    return (group.scores[:, None] - torch.cat(found, 1)).transpose(1, 2)
