"""Features of a frozen prefix, computed once an image, and the tail that trains on them.

With the first blocks frozen and BatchNorm on its running statistics, what they compute of an image
never changes. Training then costs the tail alone.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from attnviz.errors import ModelError


class Tail(nn.Module):
    """The trained part of a timm EfficientNet: blocks, last convolution, average, linear layer.

    Takes the prefix's features (B, C, h, w); its map is made at `bn2`, where CAM is exact.
    """

    def __init__(self, blocks: Sequence[nn.Module], net: nn.Module, classes: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*blocks)
        self.conv_head, self.bn2 = net.conv_head, net.bn2
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(net.classifier.in_features, classes)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Return logits (B, classes)."""
        activation = self.bn2(self.conv_head(self.blocks(features)))
        return self.classifier(self.pool(activation).flatten(1))


def divide(net: nn.Module, frozen: int, *, classes: int = 2) -> tuple[nn.Module, Tail]:
    """Return the first `frozen` blocks as one module, and the rest with a new classifier.

    Args:
        net: a timm EfficientNet (Lite0 among them); copied, not changed.
        frozen: blocks that are not trained, counted over all stages.
        classes: outputs of the new classifier, drawn from torch's random state.

    Raises:
        ModelError: another kind of network.
    """
    wanted = ("conv_stem", "bn1", "blocks", "conv_head", "bn2", "classifier")
    if not all(hasattr(net, name) for name in wanted):
        raise ModelError(f"{type(net).__name__} is no timm EfficientNet: it lacks one of {wanted}")
    net = copy.deepcopy(net).eval()
    blocks = [block for stage in net.blocks for block in stage]
    if not 0 <= frozen <= len(blocks):
        raise ModelError(f"frozen is a number of blocks from 0 to {len(blocks)}, got {frozen}")
    prefix = nn.Sequential(net.conv_stem, net.bn1, *blocks[:frozen])
    for parameter in prefix.parameters():
        parameter.requires_grad_(False)
    return prefix.eval(), Tail(blocks[frozen:], net, classes).eval()


@torch.no_grad()
def features(prefix: nn.Module, images: Tensor, *, batch_size: int = 16) -> Tensor:
    """Return what the prefix computes of images (N, 3, H, W), (N, C, h, w) float32."""
    return torch.cat([prefix(part) for part in images.split(batch_size)])
