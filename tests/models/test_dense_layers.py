"""Default layers where the output has positions itself: the encoder's end, never that output."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnviz import explain
from attnviz.models import default_layer, list_layers
from attnviz.targets import RegionTarget


def _conv(inward: int, outward: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inward, outward, 3, stride, 1), nn.ReLU())


class _UNet(nn.Module):
    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        widths = (8, 16, 32)
        self.inc = _conv(3, 8)
        self.down = nn.ModuleList(_conv(a, b) for a, b in zip(widths, (16, 32, 32), strict=True))
        self.up = nn.ModuleList([_conv(64, 16), _conv(32, 8), _conv(16, 8)])
        self.outc = nn.Conv2d(8, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept = [self.inc(x)]
        for down in self.down:
            kept.append(down(F.max_pool2d(kept[-1], 2)))
        x = kept.pop()
        for up in self.up:
            x = up(torch.cat([F.interpolate(x, scale_factor=2), kept.pop()], 1))
        return self.outc(x)


class _Binary(nn.Module):
    """One channel, squeezed, behind a sigmoid."""

    def __init__(self) -> None:
        super().__init__()
        self.net = _UNet(1)
        self.act = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.net(x))[:, 0]


class _Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer1, self.layer2, self.layer3 = _conv(3, 8, 2), _conv(8, 16, 2), _conv(16, 32, 2)

    def forward(self, x: Tensor) -> list[Tensor]:
        found = [self.layer1(x)]
        found.append(self.layer2(found[-1]))
        return [*found, self.layer3(found[-1])]


class _FPN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = _Encoder()
        self.lateral = nn.ModuleList(nn.Conv2d(c, 8, 1) for c in (8, 16, 32))
        self.smooth = nn.ModuleList(_conv(8, 8) for _ in range(3))
        self.head = nn.Sequential(nn.Conv2d(8, 4, 1), nn.Upsample(scale_factor=2))

    def levels(self, x: Tensor) -> list[Tensor]:
        parts = [lat(f) for lat, f in zip(self.lateral, self.encoder(x), strict=True)]
        for i in (1, 0):
            parts[i] = parts[i] + F.interpolate(parts[i + 1], scale_factor=2)
        return [smooth(part) for smooth, part in zip(self.smooth, parts, strict=True)]

    def forward(self, x: Tensor) -> Any:
        fine, *coarse = self.levels(x)
        return self.head(fine + sum(F.interpolate(c, size=fine.shape[-2:]) for c in coarse))


class _Pooled(nn.Module):
    """A pyramid of pooled context, coarser than the encoder and no stage of it."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(_conv(3, 8, 2), _conv(8, 16, 2))
        self.context = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Conv2d(16, 16, 1), nn.ReLU())
        self.mix = _conv(32, 16)
        self.classify = nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.net(x)
        y = torch.cat([x, F.interpolate(self.context(x), size=x.shape[-2:])], 1)
        y = self.classify(self.mix(y))
        return {"out": F.interpolate(y, scale_factor=4), "aux": y}


@dataclass
class _Found:
    boxes: Tensor
    scores: Tensor


class _Boxes(nn.Module):
    """Predictions at three scales in one row, as YOLO gives them, in a dataclass."""

    def __init__(self) -> None:
        super().__init__()
        self.fpn = _FPN()
        self.detect = nn.ModuleList(nn.Conv2d(8, 9, 1) for _ in range(3))

    def forward(self, x: Tensor) -> _Found:
        maps = [d(f) for d, f in zip(self.detect, self.fpn.levels(x), strict=True)]
        rows = torch.cat([m.flatten(2) for m in maps], 2).transpose(1, 2)
        return _Found(rows[..., :4], rows[..., 4:])


class _Linear(nn.Module):
    """Behind its last ReLU all is linear: every place there would get one and the same map."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = _conv(3, 8, 2), _conv(8, 8, 2)
        self.last = nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(self.last(self.second(self.first(x))), scale_factor=4)


class _Grid(nn.Module):
    """YOLO's first form: the head's grid is the encoder's own."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(_conv(3, 8, 2), _conv(8, 16, 2))
        self.predict = nn.Sequential(_conv(16, 16), nn.Conv2d(16, 9, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.predict(self.backbone(x))


def _dense(output: Any) -> Tensor:
    if type(output) is dict:
        return output["out"]
    if hasattr(output, "scores"):
        return output.scores.transpose(1, 2)
    return output if isinstance(output, Tensor) else output.logits


def _part(upper: bool) -> Callable[[Any], Tensor]:
    def score(output: Any) -> Tensor:
        maps = _dense(output)
        height = maps.shape[-2] if maps.ndim == 4 else maps.shape[-1]
        half = height // 2
        rows = slice(0, half) if upper else slice(half, height)
        return (maps[..., rows, :] if maps.ndim == 4 else maps[..., rows]).flatten(1).sum(1)

    return score


def _segformer() -> nn.Module:
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    config = SegformerConfig(
        hidden_sizes=[8, 16, 20, 32], depths=[1, 1, 1, 1], num_attention_heads=[1, 2, 2, 4],
        decoder_hidden_size=16, num_labels=5,
    )  # fmt: skip
    return SegformerForSemanticSegmentation(config)


@pytest.mark.parametrize(
    ("make", "layer"),
    [
        (_UNet, "down.2"),
        (_Binary, "net.down.2"),
        (_FPN, "encoder.layer3"),
        (_Pooled, "net"),
        (_Boxes, "fpn.encoder.layer3"),
        (_Linear, "first"),
        (_Grid, "backbone"),
        (_segformer, "segformer.stages.3"),
    ],
)
def test_the_encoders_end_tells_places_apart(make: Callable[[], nn.Module], layer: str) -> None:
    torch.manual_seed(0)
    model = make().eval()
    x = torch.rand(2, 3, 64, 64)
    upper, lower = (explain(model, x, target=_part(up), signed=True) for up in (True, False))
    assert upper.layer == lower.layer == layer
    a, b = (m.values / m.values.abs().amax((1, 2), keepdim=True) for m in (upper, lower))
    assert bool(((a - b).abs().amax((1, 2)) > 1e-2).all()), "two disjoint regions, two maps"


def test_the_table_names_the_models_own_output() -> None:
    rows = {row.name: row.note for row in list_layers(_UNet(), torch.rand(1, 3, 32, 32))}
    assert rows["outc"] == "channels first, the model's own output"
    assert rows["down.2"].startswith("default; ")


class _Two(nn.Module):
    """Two pictures in, one vector out; it runs on nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = _conv(3, 8, 2), _conv(3, 8, 2)
        self.head = nn.Linear(16, 4)

    def forward(self, left: Tensor, right: Tensor) -> dict[str, Tensor]:
        both = torch.cat([self.left(left), self.right(right)], 1).mean((2, 3))
        return {"first": self.head(both), "second": self.head(-both)}


def test_a_function_needs_no_logits_and_a_model_of_two_inputs_is_probed_with_both() -> None:
    torch.manual_seed(0)
    model = _Two().eval()
    left, right = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16)
    inputs = {"left": left, "right": right}
    for given in (inputs, (left, right)):
        maps = explain(model, given, target=lambda out: out["first"][:, 1], signed=True)
        assert maps.layer == "right"
        activation = model.right(right)
        weights = model.head.weight[1, 8:] / 64  # the gradient of the mean, by hand
        expected = torch.einsum("bchw,c->bhw", activation, weights)
        torch.testing.assert_close(maps.values, expected.detach(), rtol=1e-5, atol=1e-7)


def test_a_tower_of_clip() -> None:
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(
        image_size=32, patch_size=8, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, projection_dim=8,
    )  # fmt: skip
    model = CLIPVisionModelWithProjection(config).eval()
    maps = explain(model, torch.rand(2, 3, 32, 32), target=lambda out: out.image_embeds[:, 0])
    assert maps.layer == "vision_model.encoder.layers.1.layer_norm1"  # it reads the class token


def test_hiera_of_transformers_has_a_default() -> None:
    from transformers import HieraConfig, HieraForImageClassification

    torch.manual_seed(0)
    config = HieraConfig(
        embed_dim=8, image_size=[64, 64], depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], num_labels=5
    )
    model = HieraForImageClassification(config).eval()
    for weight in model.parameters():
        if weight.ndim > 1:
            nn.init.normal_(weight, std=0.2)
    x = torch.rand(1, 3, 64, 64)
    maps = explain(model, x, target=2, method="eigencam")
    assert maps.layer == "hiera.encoder"
    assert maps.values.shape == (1, 2, 2)
    # rows are rows: its own reordering gives the same picture
    seen = model(x, output_hidden_states=True).reshaped_hidden_states[-1]
    last = {}
    handle = model.hiera.encoder.register_forward_hook(lambda m, i, o: last.update(out=o[0]))
    model(x)
    handle.remove()
    torch.testing.assert_close(last["out"].reshape(1, 2, 2, -1), seen)


def test_siglip2_takes_rows_of_patches_filled_up_to_one_length() -> None:
    from transformers import Siglip2Config, Siglip2ForImageClassification

    torch.manual_seed(0)
    vision = {
        "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 32, "num_patches": 16, "patch_size": 8,
    }  # fmt: skip
    model = Siglip2ForImageClassification(Siglip2Config(vision_config=vision)).eval()
    for weight in model.parameters():
        if weight.ndim > 1:
            nn.init.normal_(weight, std=0.2)
    mask = torch.tensor([[1] * 12 + [0] * 2])
    inputs = {
        "pixel_values": torch.rand(1, 14, 192),
        "pixel_attention_mask": mask,
        "spatial_shapes": torch.tensor([[3, 4]]),
    }
    maps = explain(model, inputs, target=1, signed=True)
    assert (maps.layer, maps.meta["layout"]) == (
        "vision_model.post_layernorm", "tokens: 0 prefix + 3 x 4 + 2 suffix",
    )  # fmt: skip
    last = {}
    handle = model.vision_model.post_layernorm.register_forward_hook(
        lambda m, i, o: last.update(out=o)
    )
    model(**inputs)
    handle.remove()
    weights = model.classifier.weight[1] / 12  # the mean is of the 12 patches that are shown
    # mean of the gradient over the patches, times the activation
    expected = (last["out"][0, :12] @ weights).reshape(1, 3, 4)
    torch.testing.assert_close(maps.values, expected.detach(), rtol=1e-4, atol=1e-6)


def test_the_default_is_found_from_the_batch_at_hand() -> None:
    model = nn.Sequential(_conv(3, 8, 2), nn.Flatten(), nn.Linear(8 * 50 * 40, 4)).eval()
    assert default_layer(model, torch.rand(1, 3, 100, 80)) == "0"


class Residual(nn.Module):
    """Two convolutions with a shortcut, made last, and a gate on demand."""

    def __init__(self, taken, given, stride=1, gate=False):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(taken, given, 3, stride, 1), nn.BatchNorm2d(given)
        self.conv2, self.bn2 = nn.Conv2d(given, given, 3, 1, 1), nn.BatchNorm2d(given)
        self.gate = nn.Conv2d(given, given, 1) if gate else None
        self.downsample = nn.Conv2d(taken, given, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x):
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        if self.gate is not None:
            y = y * self.gate(y).sigmoid()
        return (y + self.downsample(x)).relu()


class Fcn(nn.Module):
    """Three stages of blocks, dropout, and a head of one convolution or of two."""

    def __init__(self, blocks, gate, head):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.stages = nn.ModuleList(
            nn.Sequential(*(Residual(a if k == 0 else b, b, 2 if k == 0 else 1, gate)
                            for k in range(blocks)))
            for a, b in ((8, 16), (16, 32))
        )  # fmt: skip
        self.drop = nn.Dropout2d(0.1)
        self.out = (
            nn.Conv2d(32, 5, 1)
            if head == 1
            else nn.Sequential(nn.Conv2d(32, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.ReLU(),
                               nn.Dropout(0.1), nn.Conv2d(8, 5, 1))
        )  # fmt: skip

    def forward(self, x):
        size, x = x.shape[2:], self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return nn.functional.interpolate(self.out(self.drop(x)), size, mode="bilinear")


@pytest.mark.parametrize(
    ("blocks", "gate", "head", "layer"),
    [
        # behind the last bend of the network all places have one gradient: the block before it
        (1, False, 1, "stages.0"),
        (2, False, 1, "stages.1.0"),
        (1, True, 1, "stages.0"),
        (2, True, 1, "stages.1.0"),
        (1, False, 2, "stages.1"),
        (2, True, 2, "stages.1"),
    ],
)
def test_the_default_is_the_end_of_a_stage_and_no_branch_beside_it(blocks, gate, head, layer):
    model = Fcn(blocks, gate, head).double().eval()
    x = torch.rand(1, 3, 32, 32, dtype=torch.float64)
    assert default_layer(model, x) == layer
    maps = []
    for corner in (slice(0, 12), slice(20, 32)):
        mask = torch.zeros(32, 32)
        mask[corner, corner] = 1
        maps.append(explain(model, x, target=RegionTarget(1, mask), signed=True).values[0])
    maps = [m / m.norm() for m in maps]
    assert (maps[0] - maps[1]).norm() > 1e-3


def test_a_timm_backbone_under_a_head_of_ones_own_gives_a_block():
    timm = pytest.importorskip("timm")

    class Own(nn.Module):
        def __init__(self, name):
            super().__init__()
            torch.manual_seed(0)
            self.net = timm.create_model(name, features_only=True, pretrained=False)
            self.cls = nn.Conv2d(self.net.feature_info.channels()[-1], 5, 1)

        def forward(self, x):
            return nn.functional.interpolate(self.cls(self.net(x)[-1]), x.shape[2:])

    for name, layer in (
        ("seresnet18", "net.layer4.0"),
        ("resnest14d", "net.layer3"),
        ("efficientnet_b0", "net.blocks.5"),
    ):
        assert default_layer(Own(name).eval(), torch.rand(1, 3, 64, 64)) == layer
