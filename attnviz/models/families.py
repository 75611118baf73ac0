"""Default layers of known model families, read off the model's structure without running it.

The rule behind every entry: the tensor that the head pools, so that CAM is exact; for a head that
reads the class token, the last block's first norm, because nothing behind it passes a gradient to
the patches.
"""

from __future__ import annotations

from typing import Any

from torch import nn

#: class name -> candidates, the first that exists and does something
_TORCHVISION: dict[str, tuple[str, ...]] = {
    "ResNet": ("layer4",),
    "DenseNet": ("features",),
    "RegNet": ("trunk_output",),
    "MobileNetV2": ("features",),
    "MobileNetV3": ("features",),
    "EfficientNet": ("features",),
    "ConvNeXt": ("features",),
    "MNASNet": ("layers",),
    "ShuffleNetV2": ("conv5",),
    "SqueezeNet": ("features",),
    "GoogLeNet": ("inception5b",),
    "Inception3": ("Mixed_7c",),
    "SwinTransformer": ("norm",),
    "FCN": ("backbone",),
    "DeepLabV3": ("backbone",),
    "LRASPP": ("backbone",),
}

_TIMM: dict[str, tuple[str, ...]] = {
    "ResNet": ("layer4",),
    "ResNetV2": ("norm", "stages"),
    "SENet": ("layer4",),
    "Res2Net": ("layer4",),
    "DenseNet": ("features",),
    "RegNet": ("final_conv", "s4"),
    "EfficientNet": ("bn2",),
    "MobileNetV3": ("blocks",),
    "ConvNeXt": ("norm_pre", "stages"),
    "ByobNet": ("final_conv", "stages"),
    "CspNet": ("stages",),
    "MetaFormer": ("stages",),
    "MaxxVit": ("norm", "stages"),
    "SwinTransformer": ("norm",),
    "SwinTransformerV2": ("norm",),
    "InceptionV3": ("Mixed_7c",),
    "InceptionV4": ("features",),
    "InceptionResnetV2": ("conv2d_7b",),
}

_TIMM_VITS = (
    "VisionTransformer",
    "VisionTransformerDistilled",
    "VisionTransformerRelPos",
    "Beit",
    "Eva",
    "ConVit",
    "NaFlexVit",
)

_FIRST_NORMS = ("norm1", "ln_1", "layernorm_before", "layer_norm1", "norm_before", "in_norm")


def static_layer(module: nn.Module) -> str | None:
    """Return the default layer of a model of a known family, or None. Costs no forward."""
    home = type(module).__module__
    name = None
    kinds = [kind.__module__ for kind in type(module).__mro__]
    if any(kind.startswith("torchvision.models.detection.") for kind in kinds):
        name = _shared_by_levels(getattr(module, "backbone", None))
    elif home.startswith("torchvision.models"):
        name = _torchvision(module)
    elif home.startswith("timm.models"):
        name = _timm(module)
    elif hasattr(module, "config") and hasattr(module.config, "model_type"):
        name = _hf(module)
    return name if name and name in dict(module.named_modules()) else None


def static_levels(module: nn.Module) -> tuple[str, ...]:
    """Return the levels of a detector's feature pyramid, fine to coarse: torchvision's."""
    pyramid: Any = getattr(getattr(module, "backbone", None), "fpn", None)
    if type(pyramid).__name__ != "FeaturePyramidNetwork":
        return ()
    found = [f"layer_blocks.{i}" for i in range(len(pyramid.layer_blocks))]
    found += [
        f"extra_blocks.{n}" for n, _ in (pyramid.extra_blocks or nn.Module()).named_children()
    ]
    return tuple(f"backbone.fpn.{name}" for name in found)


def _first(module: Any, names: tuple[str, ...]) -> str | None:
    for name in names:
        part = getattr(module, name, None)
        if isinstance(part, nn.Module) and not isinstance(part, nn.Identity):
            return name
    return None


def _torchvision(module: Any) -> str | None:
    kind = type(module).__name__
    if kind in ("VGG", "AlexNet"):
        return _before_last_pool(module)
    if kind == "VisionTransformer":
        blocks = list(module.encoder.layers.named_children())
        return f"encoder.layers.{blocks[-1][0]}.ln_1"
    if kind == "MaxVit":
        return f"blocks.{len(module.blocks) - 1}"
    name = _first(module, _TORCHVISION.get(kind, ()))
    if name == "backbone":  # a dict of feature maps: its last stage
        return f"backbone.{list(module.backbone.named_children())[-1][0]}"
    return name


def _shared_by_levels(backbone: Any) -> str | None:
    """Return the last stage of a detector's backbone that boxes of every size depend on."""
    if isinstance(getattr(backbone, "body", None), nn.Module):  # below a feature pyramid
        return f"backbone.body.{list(backbone.body._modules)[-1]}"
    features = getattr(backbone, "features", None)
    if not isinstance(features, nn.Sequential):
        return "backbone"
    staged = all(isinstance(part, nn.Sequential) for part in features)  # SSDLite
    return "backbone.features.0" if staged else "backbone.features"


def _before_last_pool(module: Any) -> str | None:
    """Return the activation before the last max-pooling of `features`: twice its resolution."""
    names = [name for name, _ in module.features.named_children()]
    if isinstance(module.features[-1], nn.MaxPool2d) and len(names) > 1:
        return f"features.{names[-2]}"
    return f"features.{names[-1]}"


def _timm(module: Any) -> str | None:
    kind = type(module).__name__
    if kind in _TIMM:
        return _first(module, _TIMM[kind])
    if kind == "VGG":
        return _before_last_pool(module)
    if kind == "VOLO":  # its two heads read the patches of this stage in two ways
        return f"network.{len(module.network) - 1}"
    blocks = getattr(module, "blocks", None)
    if not isinstance(blocks, nn.Sequential | nn.ModuleList) or not len(blocks):
        return None
    last = len(blocks) - 1
    if kind in ("Cait", "Xcit"):  # the class token joins behind these blocks
        return f"blocks.{last}"
    if kind not in _TIMM_VITS:
        return None
    pool = getattr(module, "global_pool", None)
    if pool == "token":
        return _class_token_layer(blocks, "blocks")
    if pool in ("avg", "avgmax", "max", "map"):
        return _first(module, ("norm",)) or f"blocks.{last}"
    return None


def _class_token_layer(blocks: Any, path: str) -> str | None:
    names = [name for name, _ in blocks.named_children()]
    last = blocks[-1]
    # a block that normalises behind its attention has no tensor in front of it but its input
    if "post" not in type(last).__name__.lower():
        for norm in _FIRST_NORMS:
            if isinstance(getattr(last, norm, None), nn.Module):
                return f"{path}.{names[-1]}.{norm}"
    return f"{path}.{names[-2]}" if len(names) > 1 else None


def _hf(module: Any) -> str | None:
    kind = module.config.model_type
    if type(module).__name__.endswith("ForObjectDetection"):
        return _hf_detector(module)
    if not type(module).__name__.endswith(("ForImageClassification", "WithTeacher")):
        return None
    body = getattr(module, getattr(module, "base_model_prefix", "") or "", None)
    if body is None:
        return None
    prefix = module.base_model_prefix
    if kind in ("swin", "swinv2"):
        return f"{prefix}.layernorm"
    if kind in ("convnext", "convnextv2", "resnet", "regnet"):
        return _last_stage(body, prefix)
    if kind in ("vit", "deit", "dinov2", "dinov2_with_registers", "dinov3_vit", "vit_msn"):
        path = _blocks(body)
        return path and _class_token_layer(body.get_submodule(path), f"{prefix}.{path}")
    return None


def _hf_detector(module: nn.Module) -> str | None:
    """Return the last stage of a DETR's convolutional backbone; of YOLOS, which reads tokens."""
    for name, part in reversed(list(module.named_modules())):
        if isinstance(part, nn.ModuleList) and len(part) and "backbone" in name:
            if name.endswith(".stages"):
                return f"{name}.{len(part) - 1}"
        elif name.endswith(".layer4") and "backbone" in name:
            return name
    path = _blocks(module) if getattr(module.config, "model_type", None) == "yolos" else None
    return path and _class_token_layer(module.get_submodule(path), path)


def _last_stage(body: Any, prefix: str) -> str | None:
    stages = getattr(getattr(body, "encoder", body), "stages", None)
    path = "encoder.stages" if hasattr(body, "encoder") else "stages"
    return f"{prefix}.{path}.{len(stages) - 1}" if stages is not None and len(stages) else None


def _blocks(body: nn.Module) -> str | None:
    """Return the path of the list of transformer blocks."""
    for name, part in body.named_modules():
        if not isinstance(part, nn.ModuleList) or not len(part):
            continue
        if any(hasattr(part[-1], norm) for norm in _FIRST_NORMS):
            return name
    return None
