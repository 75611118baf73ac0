"""Superpixels: k-means over colour and place from a regular grid of seeds.

Achanta, Shaji, Smith, Lucchi, Fua & Süsstrunk, "SLIC Superpixels" (IEEE TPAMI 2012). Differs from
the paper: colours are the model's input channels, each divided by its deviation in the image, and
parts of a segment need not be connected.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import MetricError


def superpixels(
    x: Tensor, count: int = 64, *, compactness: float = 1.0, rounds: int = 8
) -> list[Tensor]:
    """Return each image's segments, (H, W) int64 numbered from 0 without a gap.

    Args:
        x: (B, C, H, W) images.
        count: segments wished for; about as many come out.
        compactness: weight of place against colour.
        rounds: of reassigning pixels and moving centres.
    """
    if count < 1:
        raise MetricError(f"segments={count}, expected at least 1")
    return [_segments(image, count, compactness, rounds) for image in x.detach()]


def _segments(image: Tensor, count: int, compactness: float, rounds: int) -> Tensor:
    image = image if image.dtype == torch.float64 else image.float()
    height, width = image.shape[-2:]
    rows = max(1, min(height, round((count * height / width) ** 0.5)))
    columns = max(1, min(width, round(count / rows)))
    y = torch.arange(height, device=image.device)
    x = torch.arange(width, device=image.device)
    home_y, home_x = y * rows // height, x * columns // width
    spread = image.flatten(1).std(1, correction=0).clamp_min(1e-12)[:, None, None]
    place = torch.stack(
        [
            (y.to(image) * rows / height)[:, None].expand(height, width),
            (x.to(image) * columns / width)[None].expand(height, width),
        ]
    )
    features = torch.cat([image / spread, compactness * place]).flatten(1)  # (F, n)
    # a pixel may belong to the segment seeded in its own cell or in one of the eight around it
    shifts = torch.arange(-1, 2, device=image.device)
    near_y = (home_y[:, None] + shifts).clamp(0, rows - 1)
    near_x = (home_x[:, None] + shifts).clamp(0, columns - 1)
    near = (near_y[:, None, :, None] * columns + near_x[None, :, None, :]).reshape(-1, 9)
    label = (home_y[:, None] * columns + home_x[None]).flatten()
    for _ in range(rounds):
        total = features.new_zeros(len(features), rows * columns).index_add_(1, label, features)
        size = torch.bincount(label, minlength=rows * columns)
        centre = total / size.clamp_min(1)
        distance = ((features[:, :, None] - centre[:, near]) ** 2).sum(0)
        distance = distance.masked_fill((size == 0)[near], float("inf"))
        following = near.gather(1, distance.argmin(1, keepdim=True))[:, 0]
        if torch.equal(following, label):
            break
        label = following
    return label.unique(return_inverse=True)[1].view(height, width)
