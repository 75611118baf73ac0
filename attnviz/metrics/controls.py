"""Controls: maps that know nothing of the model, to be beaten before a method means anything."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ._inputs import as_images, as_masks, stretched
from ._random import generator, image_keys
from .baselines import blur

#: name -> what the control stands for
CONTROLS = {
    "random": "random blobs of the methods' coarseness: no knowledge at all",
    "centre": "a bump in the middle: photographers centre objects",
    "edge": "an edge detector: sees the image, not the model",
    "constant": "the same everywhere: exposes metrics that reward saying nothing",
    "blurred image": "the image's blurred brightness: sees the image, not the model",
    "mask": "the annotation itself: where it loses, the metric does not measure localisation",
}


def control_maps(
    x: Tensor, masks: Any = None, *, size: tuple[int, int] | None = None, seed: int = 0
) -> dict[str, Tensor]:
    """Return the control maps of a batch, each (B, H, W) in [0, 1].

    Args:
        x: (B, C, H, W) the model's input.
        masks: (B, H, W) where the object is; adds the control "mask".
        size: (h, w) of the random control's cells, best the methods' map size; None is one cell
            for every 32 pixels.
        seed: of the random control, which is drawn per image.
    """
    x = as_images(x)
    batch, _, height, width = x.shape
    x = x if x.dtype == torch.float64 else x.float()
    size = size or (max(2, round(height / 32)), max(2, round(width / 32)))
    cells = torch.stack(
        [torch.rand(size, generator=generator(seed, key, "control")) for key in image_keys(x)]
    )
    random = F.interpolate(
        cells[:, None].to(x), size=(height, width), mode="bilinear", align_corners=False
    )[:, 0]
    y = (torch.arange(height, device=x.device, dtype=x.dtype) + 0.5) / height - 0.5
    across = (torch.arange(width, device=x.device, dtype=x.dtype) + 0.5) / width - 0.5
    centre = torch.exp(-(y[:, None] ** 2 + across[None] ** 2) / (2 * 0.25**2))
    found = {
        "random": random,
        "centre": centre.expand(batch, height, width).clone(),
        "edge": stretched(edges(x)),
        "constant": torch.ones(batch, height, width, device=x.device, dtype=x.dtype),
        "blurred image": stretched(blur(x.mean(1, keepdim=True))[:, 0]),
    }
    if masks is not None:
        found["mask"] = as_masks(masks, batch, x.device).to(x.dtype)
    return found


def edges(x: Tensor) -> Tensor:
    """Return the Sobel gradient's magnitude of the channels' mean, (B, H, W)."""
    kernel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]], device=x.device, dtype=x.dtype)
    both = torch.stack([kernel, kernel.T])[:, None] / 8
    grey = F.pad(x.mean(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
    return F.conv2d(grey, both).square().sum(1).sqrt()


def relative(value: float, *, chance: float, best: float) -> float:
    """Return where a number lies between a control (0) and the best attainable (1).

    Below 0 is worse than the control. NaN where the two do not differ.

    Args:
        value: a method's number.
        chance: the control's under the same protocol, such as the random map's.
        best: the number of a perfect map, such as the mask's.
    """
    return (value - chance) / (best - chance) if best != chance else float("nan")
