"""Small models for the command line's tests, named `tests.cli.tiny:FACTORY` there."""

from __future__ import annotations

import time

import torch
from torch import Tensor, nn


class Colours(nn.Module):
    """Tells red, green and blue: logit c is the mean of colour c minus that of the other two.

    Its last feature map holds the colours themselves, averaged over 16 x 16 pixels.
    """

    def __init__(self) -> None:
        super().__init__()
        self.blur = nn.AvgPool2d(16)
        self.features = nn.Conv2d(3, 3, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(3, 3)
        with torch.no_grad():
            self.features.weight.copy_(torch.eye(3)[:, :, None, None])
            self.features.bias.zero_()
            self.fc.weight.copy_(2 * torch.eye(3) - torch.ones(3, 3))
            self.fc.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(self.features(self.blur(x))).flatten(1))


def colours() -> Colours:
    return Colours()


def nan() -> Colours:
    model = Colours()
    with torch.no_grad():
        model.fc.weight[0, 0] = float("nan")
    return model


def flat() -> nn.Module:
    """A model without spatial layers."""
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 224 * 224, 2))


def slow() -> Colours:
    model = Colours()
    model.register_forward_hook(lambda *_: time.sleep(0.3))
    return model


class TwoHeads(Colours):
    """Two answers of one width: the colours, and minus them."""

    def forward(self, x: Tensor) -> dict[str, dict[str, Tensor]]:
        logits = super().forward(x)
        return {"heads": {"plain": logits, "minus": -logits}}


def two_heads() -> TwoHeads:
    return TwoHeads()


def sized() -> nn.Module:
    """A model whose own config states a size, 160 x 160."""
    import timm

    torch.manual_seed(0)
    return timm.create_model("test_vit", num_classes=3)


def broken() -> nn.Module:
    raise RuntimeError("a bug in the factory")


def detector() -> nn.Module:
    """torchvision's Faster R-CNN on one convolution, with random weights that find boxes."""
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.anchor_utils import AnchorGenerator

    torch.manual_seed(0)  # `load` puts the random state back
    backbone = nn.Sequential(nn.AvgPool2d(8), nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
    backbone.out_channels = 8
    return FasterRCNN(
        backbone,
        3,
        min_size=200,
        max_size=400,
        rpn_anchor_generator=AnchorGenerator(((32, 64),), ((1.0,),)),
        box_score_thresh=0.0,
        box_detections_per_img=5,
    )


LEFT = float("inf")  # forward passes until Ctrl-C


def _stop(*_: object) -> None:
    global LEFT
    LEFT -= 1
    if LEFT < 0:
        raise KeyboardInterrupt


def stopping() -> Colours:
    """`colours`, and Ctrl-C once `LEFT` forward passes have been made."""
    model = Colours()
    model.register_forward_pre_hook(_stop)
    return model


def stopping_vit() -> nn.Module:
    model = sized()
    model.register_forward_pre_hook(_stop)
    return model


def stopping_net() -> nn.Module:
    from attnviz.data.boatwater.recipe import SmallNet

    model = SmallNet()
    model.register_forward_pre_hook(_stop)
    return model
