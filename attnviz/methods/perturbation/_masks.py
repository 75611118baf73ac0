"""Masks made of activations: upsampled, and stretched to [0, 1]."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..altered import AlteredGroup
from ._run import Layer


def upsampled(maps: Tensor, size: torch.Size | tuple[int, int]) -> Tensor:
    """Return maps (n, g, h, w) at the images' size, bilinearly."""
    return F.interpolate(maps, tuple(size), mode="bilinear", align_corners=False)


def stretched(maps: Tensor) -> Tensor:
    """Return maps (n, g, H, W) stretched to [0, 1] each; a constant one becomes zero."""
    low = maps.amin((-2, -1), keepdim=True)
    span = maps.amax((-2, -1), keepdim=True) - low
    return torch.where(span > 0, (maps - low) / torch.where(span > 0, span, 1.0), 0.0)


def channel_masks(layer: Layer, size: tuple[int, int], start: int, stop: int) -> Tensor:
    """Return the masks of channels start to stop, (stop - start, g, H, W) in [0, 1]."""
    return stretched(upsampled(layer.activation[:, start:stop].transpose(0, 1), size))


def masked(group: AlteredGroup, masks: Tensor) -> Tensor:
    """Return the group's images times masks (n, g, H, W): (n, g, C, H, W)."""
    return group.inputs * masks[:, :, None].to(group.inputs.dtype)


def weighted(activation: Tensor, gains: Tensor) -> Tensor:
    """Return sum_k softmax_k(gains) A_k of (g, C, h, w) and gains (K, g, C): (K, g, h, w).

    Channels that are constant make no mask and have no weight.
    """
    flat = activation.amax((-2, -1)) == activation.amin((-2, -1))
    gains = gains.to(activation).masked_fill(flat, float("-inf"))
    weights = gains.softmax(-1).nan_to_num(0.0)  # NaN where every channel is constant
    return torch.einsum("kgc,gchw->kghw", weights, activation)
