"""What a model does to its input's size before anything else: torchvision's detectors."""

from __future__ import annotations

import copy
from functools import lru_cache
from typing import Any

import torch
from torch import nn

from ..geometry import Geometry
from ..hooks import named_parts


def inner_geometry(module: nn.Module, input_size: tuple[int, int] | None) -> Geometry | None:
    """Return where the picture that the layers see lies on the model's input.

    torchvision's detectors resize their input and pad it below and to the right
    (`GeneralizedRCNNTransform`), so that a feature map covers more than the picture. The model's
    own part is asked, in evaluation mode, on an empty picture of that size.

    Args:
        module: the model.
        input_size: (H, W) of its input in pixels.

    Returns:
        A geometry whose photo is the model's input; None for a model without such a part.
    """
    parts = named_parts(module)
    if input_size is None or not any(_resizes(kind) for kind in {type(m) for m in parts}):
        return None
    found = [m for m in parts if _resizes(type(m))]
    if len(found) != 1:
        return None
    part: Any = copy.copy(found[0]).eval()
    (height, width), channels = input_size, len(part.image_mean)
    with torch.no_grad():
        seen, _ = part([torch.zeros(channels, height, width)])
    (h, w), (full_h, full_w) = seen.image_sizes[0], seen.tensors.shape[-2:]
    return Geometry(
        (height, width), (full_h, full_w), (0.0, 0.0, width * full_w / w, height * full_h / h)
    )


@lru_cache(maxsize=4096)
def _resizes(module: type[nn.Module]) -> bool:
    return any(
        kind.__name__ == "GeneralizedRCNNTransform" and kind.__module__.startswith("torchvision.")
        for kind in module.__mro__
    )
