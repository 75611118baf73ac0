"""Small networks of many families with random weights, and what is known of each by hand."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class Case:
    """A network and the facts that its source code states.

    Attributes:
        build: makes the network.
        size: (h, w) of the input.
        layer: the default layer.
        kind: layout of that layer.
        prefix: tokens that are no patches, there.
        pooled: the head averages that very tensor, so its gradient is the same at each position.
        early: a layer of the same layout at which a position has seen little of the input.
        static: known by its structure; no forward is needed.
    """

    name: str
    build: Callable[[], nn.Module]
    size: tuple[int, int]
    layer: str
    kind: str = "channels_first"
    prefix: int = 0
    pooled: bool = True
    early: str | None = None
    static: bool = True

    def model(self) -> nn.Module:
        """Build the network with weights that make every layer matter."""
        torch.manual_seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return wake(self.build()).eval()


def wake(model: nn.Module) -> nn.Module:
    """Fill what initialisation leaves zero (heads, last norms of a block), so gradients flow."""
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any() and parameter.ndim:
                parameter.normal_(0, 0.1)
    return model


def _tv(name: str, **options: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        from torchvision import models

        return models.get_model(name, weights=None, **options)

    return build


def _timm(name: str, **options: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import timm

        return timm.create_model(name, **options)

    return build


def _tv_vit() -> nn.Module:
    from torchvision.models import VisionTransformer

    return VisionTransformer(48, 16, 2, 3, 48, 96, num_classes=10)


def _tv_swin(version: int) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        from torchvision.models.swin_transformer import (
            PatchMerging,
            PatchMergingV2,
            SwinTransformer,
            SwinTransformerBlock,
            SwinTransformerBlockV2,
        )

        blocks = (SwinTransformerBlock, SwinTransformerBlockV2)
        merging = (PatchMerging, PatchMergingV2)
        options = {"block": blocks[version - 1], "downsample_layer": merging[version - 1]}
        return SwinTransformer([4, 4], 16, [1, 1], [2, 2], [4, 4], num_classes=10, **options)

    return build


def _tv_maxvit() -> nn.Module:
    from torchvision.models import MaxVit

    return MaxVit((64, 64), 8, 4, [8, 16], [1, 1], 4, 0.0, num_classes=10)


_HF = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": (48, 64),
    "patch_size": 16,
    "num_labels": 10,
}


def _hf(name: str, **options: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import transformers

        config = getattr(transformers, name + "Config")(**options)
        return getattr(transformers, name + "ForImageClassification")(config)

    return build


_TINY = {"img_size": (48, 64), "depth": 2, "embed_dim": 48, "num_heads": 3, "num_classes": 10}
_SWIN = {
    "img_size": 64,
    "window_size": 4,
    "depths": (1, 1),
    "embed_dim": 24,
    "num_heads": (1, 1),
    "num_classes": 10,
}
_STAGES = {
    "hidden_sizes": [8, 16, 24, 32],
    "depths": [1, 1, 1, 1],
    "num_labels": 10,
}
_WIDE = (64, 96)

CASES = [
    # convolutional networks of torchvision
    Case("tv resnet18", _tv("resnet18"), _WIDE, "layer4", early="layer1"),
    Case("tv resnext50", _tv("resnext50_32x4d"), _WIDE, "layer4", early="layer1"),
    Case("tv vgg11", _tv("vgg11", num_classes=10), _WIDE, "features.19", pooled=False,
         early="features.0"),
    Case("tv alexnet", _tv("alexnet"), (64, 96), "features.11", pooled=False, early="features.0"),
    Case("tv densenet121", _tv("densenet121"), _WIDE, "features", pooled=False,
         early="features.denseblock1"),
    Case("tv regnet_y_400mf", _tv("regnet_y_400mf"), _WIDE, "trunk_output", early="stem"),
    Case("tv mobilenet_v2", _tv("mobilenet_v2"), _WIDE, "features", early="features.1"),
    Case("tv mobilenet_v3", _tv("mobilenet_v3_small"), _WIDE, "features", early="features.0"),
    Case("tv efficientnet_b0", _tv("efficientnet_b0"), _WIDE, "features", early="features.0"),
    Case("tv convnext_tiny", _tv("convnext_tiny"), _WIDE, "features", early="features.1"),
    Case("tv inception_v3", _tv("inception_v3", init_weights=False), (107, 139), "Mixed_7c",
         early="Conv2d_2b_3x3"),
    Case("tv googlenet", _tv("googlenet", init_weights=False), _WIDE, "inception5b",
         early="conv1"),
    Case("tv squeezenet", _tv("squeezenet1_1"), _WIDE, "features", pooled=False,
         early="features.0"),
    Case("tv shufflenet", _tv("shufflenet_v2_x0_5"), _WIDE, "conv5", early="conv1"),
    Case("tv mnasnet", _tv("mnasnet0_5"), _WIDE, "layers", early="layers.0"),
    # transformers of torchvision
    Case("tv vit", _tv_vit, (48, 48), "encoder.layers.encoder_layer_1.ln_1", "tokens", 1, False,
         "encoder.layers.encoder_layer_0.ln_1"),
    Case("tv swin", _tv_swin(1), (32, 48), "norm", "channels_last", early="features.1.0.norm1"),
    Case("tv swin_v2", _tv_swin(2), (32, 48), "norm", "channels_last",
         early="features.1.0.norm1"),
    Case("tv maxvit", _tv_maxvit, (64, 64), "blocks.1", early="stem.0"),
    # convolutional networks of timm
    Case("timm resnet10t", _timm("resnet10t"), _WIDE, "layer4", early="layer1"),
    Case("timm resnetv2", _timm("resnetv2_18"), _WIDE, "norm", early="stages.0"),
    Case("timm efficientnet_lite0", _timm("tf_efficientnet_lite0"), _WIDE, "bn2",
         early="blocks.0"),
    Case("timm mobilenetv3", _timm("mobilenetv3_small_050"), _WIDE, "blocks", early="conv_stem"),
    Case("timm regnet", _timm("regnety_002"), _WIDE, "s4", early="stem"),
    Case("timm densenet", _timm("densenet121"), _WIDE, "features", early="features.denseblock1"),
    Case("timm convnext", _timm("convnext_atto"), _WIDE, "stages", early="stages.0"),
    Case("timm repvgg", _timm("repvgg_a0"), _WIDE, "stages", early="stem"),
    Case("timm poolformer", _timm("poolformer_s12"), _WIDE, "stages", early="stages.0"),
    # transformers of timm
    Case("timm vit", _timm("vit_tiny_patch16_224", **_TINY), (48, 64), "blocks.1.norm1", "tokens",
         1, False, "blocks.0.norm1"),
    Case("timm vit, averaged", _timm("vit_tiny_patch16_224", **_TINY, global_pool="avg"),
         (48, 64), "blocks.1", "tokens", 1, True, "blocks.0.norm1"),
    Case("timm deit distilled", _timm("deit_tiny_distilled_patch16_224", **_TINY), (48, 64),
         "blocks.1.norm1", "tokens", 2, False, "blocks.0.norm1"),
    Case("timm dinov2, registers",
         _timm("vit_small_patch14_reg4_dinov2", **{**_TINY, "img_size": (42, 56)}),
         (42, 56), "blocks.1.norm1", "tokens", 5, False, "blocks.0.norm1"),
    Case("timm siglip", _timm("vit_base_patch16_siglip_224", **_TINY), (48, 64), "norm", "tokens",
         0, False, "blocks.0.norm1"),
    Case("timm eva02", _timm("eva02_tiny_patch14_224", **{**_TINY, "img_size": (42, 56)}),
         (42, 56), "blocks.1", "tokens", 1, True, "blocks.0.norm1"),
    Case("timm beit", _timm("beit_base_patch16_224", **_TINY), (48, 64), "blocks.1", "tokens", 1,
         True, "blocks.0.norm1"),
    Case("timm vit, norm behind",
         _timm("vit_relpos_base_patch32_plus_rpn_256", **{**_TINY, "img_size": (64, 96)}),
         (64, 96), "norm", "tokens", 0, True, "blocks.0.attn.qkv"),
    Case("timm cait", _timm("cait_xxs24_224", **{**_TINY, "img_size": 48}), (48, 48), "blocks.1",
         "tokens", 0, False, "blocks.0.norm1"),
    Case("timm mixer", _timm("mixer_s32_224", img_size=64), (64, 64), "norm",
         "tokens", early="blocks.0.norm1", static=False),
    Case("timm levit", _timm("levit_128s"), (224, 224), "stages", "tokens", static=False),
    Case("timm pvt_v2", _timm("pvt_v2_b0"), _WIDE, "stages", early="stages.0", static=False),
    Case("timm swin", _timm("swin_tiny_patch4_window7_224", **_SWIN), (64, 64), "norm",
         "channels_last", early="layers.0.blocks.0.norm1"),
    Case("timm swinv2", _timm("swinv2_tiny_window8_256", **_SWIN), (64, 64), "norm",
         "channels_last", early="patch_embed"),
    # Hugging Face
    Case("hf vit", _hf("ViT", **_HF), (48, 64), "vit.layers.1.layernorm_before", "tokens", 1,
         False, "vit.layers.0.layernorm_before"),
    Case("hf deit", _hf("DeiT", **_HF), (48, 64), "deit.layers.1.layernorm_before", "tokens", 2,
         False, "deit.layers.0.layernorm_before"),
    Case("hf dinov2", _hf("Dinov2", **{**_HF, "image_size": 64}), (48, 64),
         "dinov2.encoder.layer.1.norm1", "tokens", 1, False, "dinov2.encoder.layer.0.norm1"),
    Case("hf dinov2, registers",
         _hf("Dinov2WithRegisters", **{**_HF, "image_size": 64}, num_register_tokens=4),
         (48, 64), "dinov2_with_registers.encoder.layer.1.norm1", "tokens", 5, False,
         "dinov2_with_registers.encoder.layer.0.norm1"),
    Case("hf swin", _hf("Swin", image_size=64, patch_size=4, embed_dim=16, depths=[1, 1],
                        num_heads=[2, 2], window_size=4, num_labels=10),
         (64, 96), "swin.layernorm", "tokens", early="swin.encoder.layers.0.blocks.0"
         ".layernorm_before"),
    Case("hf convnext", _hf("ConvNext", **_STAGES), _WIDE, "convnext.encoder.stages.3",
         early="convnext.encoder.stages.0"),
    Case("hf resnet", _hf("ResNet", **_STAGES, embedding_size=8, layer_type="basic"), _WIDE,
         "resnet.encoder.stages.3", early="resnet.embedder"),
]  # fmt: skip


def run(model: nn.Module, layer: str, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a layer's activation and the gradient of class 0, by hooks and autograd alone."""
    kept: list[torch.Tensor] = []

    def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
        found = output if isinstance(output, torch.Tensor) else output[0]
        found = found.detach().clone().requires_grad_()  # what runs behind sees this tensor only
        kept.append(found)
        if isinstance(output, torch.Tensor):
            return found.clone()
        if isinstance(output, tuple):
            return (found.clone(), *output[1:])
        return type(output)(**{**output, next(iter(output)): found.clone()})

    handle = model.get_submodule(layer).register_forward_hook(hook)
    try:
        output = model(image)
    finally:
        handle.remove()
    logits = output if isinstance(output, torch.Tensor) else output.logits
    (gradient,) = torch.autograd.grad(logits[:, 0].sum(), kept)
    return kept[0].detach(), gradient


def corner_change(
    model: nn.Module, layer: str, size: tuple[int, int], corner: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a layer's activations for an image and for one with a corner's pixels changed."""
    generator = torch.Generator().manual_seed(3)
    image = torch.randn(1, 3, *size, generator=generator)
    other = image.clone()
    rows = slice(0, 4) if corner[0] == 0 else slice(size[0] - 4, size[0])
    columns = slice(0, 4) if corner[1] == 0 else slice(size[1] - 4, size[1])
    other[:, :, rows, columns] += 0.5
    seen = []

    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        seen.append(output if isinstance(output, torch.Tensor) else output[0])
        raise _Enough

    handle = model.get_submodule(layer).register_forward_hook(hook)
    with torch.no_grad():
        for x in (image, other):
            with contextlib.suppress(_Enough):  # what comes behind the layer is of no interest
                model(x)
    handle.remove()
    return seen[0], seen[1]


class _Enough(Exception):
    pass


def corner_cell(corner: tuple[int, int], grid: tuple[int, int]) -> tuple[int, int]:
    """Return the (row, column) of a corner on a grid; corners are (0 or 1, 0 or 1)."""
    return tuple(math.ceil(c * (side - 1)) for c, side in zip(corner, grid, strict=True))
