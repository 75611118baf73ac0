"""Group-CAM."""

from __future__ import annotations

import torch
from torch import Tensor

from ...errors import MethodError
from ..altered import AlteredGroup, replacement
from ._masks import stretched, upsampled
from ._register import register_perturbation
from ._run import Layer


@register_perturbation(
    "groupcam", paper="arXiv:2103.13859", units="score", needs_gradient=True,
    aliases=("group-cam",), signed=False,
)  # fmt: skip
def groupcam(
    group: AlteredGroup,
    layer: Layer,
    *,
    groups: int = 32,
    quantile: float = 0.7,
    baseline: str | Tensor = "blur",
) -> Tensor:
    """Group-CAM: Grad-CAM's channels in groups, each weighed by a masked pass (Zhang et al. 2021).

    The channels of Grad-CAM, GAP(dS/dA_k) A_k, are summed in `groups` neighbouring groups to ReLU
    masks; what lies below their quantile is set to zero, and they are stretched to [0, 1]. The
    map is ReLU(sum_g (S(x m_g + b (1 - m_g)) - S(b)) m_g), b being the blurred image. It is at the
    activation's resolution; the masks for the passes are upsampled.

    Args:
        group: the images.
        layer: its activation and gradients.
        groups: number of groups, at most that of the channels.
        quantile: share of each mask's positions that are set to zero, in [0, 1).
        baseline: what stands outside of a mask: "blur", "zero", "mean", "noise" or a tensor.

    Returns:
        (K, g, h, w).
    """
    activation = layer.activation
    if groups < 1 or not 0 <= quantile < 1:
        raise MethodError(f"groups={groups} is at least 1, quantile={quantile} in [0, 1)")
    assert layer.gradients is not None
    number = min(groups, activation.shape[1])
    behind = group.of(replacement(baseline, group.passes.inputs))
    maps = []
    for k, gradient in enumerate(layer.gradients.to(activation)):
        channels = gradient.mean((-2, -1), keepdim=True) * activation
        masks = torch.stack([part.sum(1) for part in channels.tensor_split(number, 1)]).relu()
        least = masks.flatten(2).quantile(quantile, -1)[..., None, None]
        masks = stretched(torch.where(masks >= least, masks, 0.0))
        # the last copy is the baseline alone
        shown = torch.cat([masks, masks.new_zeros(1, *masks.shape[1:])])

        def build(start: int, stop: int, shown: Tensor = shown) -> Tensor:
            keep = upsampled(shown[start:stop], behind.shape[-2:]).to(behind)
            return behind + keep[:, :, None] * (group.inputs - behind)

        scores = torch.cat([s for _, _, s in group.each(number + 1, build, "Group-CAM")], 1)[k]
        gains = scores[:-1] - scores[-1:]
        values = (gains.to(masks)[..., None, None] * masks).sum(0)
        maps.append(values)
    return torch.stack(maps)
