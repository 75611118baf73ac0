"""Which preprocessing holds: the one given, else the model's own, else an error; never a guess."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from ..errors import PreprocessError, did_you_mean
from ..inputs import channels_of
from .loaded import LoadedModel
from .preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess
from .transforms import ImageTransform

NAMED = {
    "imagenet": Preprocess(name="imagenet"),
    "imagenet-inception": Preprocess(
        mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), interpolation="bicubic",
        name="imagenet-inception",
    ),
    "clip": Preprocess(
        resize=224,
        mean=(0.48145466, 0.4578275, 0.40821073),
        std=(0.26862954, 0.26130258, 0.27577711),
        interpolation="bicubic",
        name="clip",
    ),
    "unit": Preprocess(
        resize=None, crop=None, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), name="unit",
    ),
}  # fmt: skip

_HELP = (
    'pass preprocess="imagenet" (resize 256, crop 224, ImageNet mean and deviation), the '
    "torchvision weights enum it was trained as, a timm config, a Hugging Face image processor, "
    "attnviz.models.Preprocess(...), or the function you evaluate the model with"
)
_OPTIONS = (
    "say it with --preprocess: imagenet (resize 256, crop 224, ImageNet mean and deviation), "
    "imagenet-inception, clip, unit or a JSON file of its settings; or with --mean, --std and "
    "--resize"
)


def resolve_preprocess(
    preprocess: Any = None,
    module: nn.Module | None = None,
    loaded: LoadedModel | None = None,
) -> Preprocess | ImageTransform:
    """Return the callable that makes a model's input from a photo, with its geometry.

    Args:
        preprocess: what the user gave: a Preprocess, or a JSON file of one (as `attnviz guide`
            writes); "imagenet", "imagenet-inception", "clip" or "unit" (as it is, values from 0
            to 1); a member of a torchvision weights enum or its transforms; a timm config; a
            Hugging Face processor; a torchvision Compose; any function of a PIL image. None takes
            what the model itself brings.
        module: the model.
        loaded: what loading by name knows of it.

    Returns:
        A callable (H, W, 3) uint8 RGB -> (tensor (3, h, w) float32, Geometry), with `describe()`.
        A network of one channel gets photos in grey, with the channels' mean values averaged,
        unless a `Preprocess` or transform says otherwise itself.

    Raises:
        PreprocessError: neither given nor known.
    """
    if isinstance(preprocess, Preprocess):
        return preprocess
    found = None
    if preprocess is not None:
        found = _explicit(preprocess)
    elif loaded is not None and loaded.preprocess is not None:
        found = _explicit(loaded.preprocess)
    elif module is not None:
        found = own_preprocess(module)
    if found is not None:
        if isinstance(found, Preprocess) and module is not None and channels_of(module) == 1:
            return found.in_grey()
        return found
    name = loaded.name if loaded is not None else type(module).__name__
    what = f"how a photo becomes the input of {name} is not known"
    raise PreprocessError(f"{what}; {_HELP}", command=f"{what}; {_OPTIONS}")


def own_preprocess(module: nn.Module) -> Preprocess | None:
    """Return the preprocessing that a model object itself states (timm), or None."""
    cfg = getattr(module, "pretrained_cfg", None) or getattr(module, "default_cfg", None)
    if not cfg or not type(module).__module__.startswith("timm."):
        return None
    cfg = dict(_as_mapping(cfg))
    size = getattr(getattr(module, "patch_embed", None), "img_size", None)
    if size is not None and getattr(module.patch_embed, "strict_img_size", True):
        cfg["input_size"] = (3, *size)  # built for another size than its weights' config
    return from_timm(cfg, name=f"timm config of {cfg.get('architecture') or 'the model'}")


def _as_mapping(cfg: Any) -> Mapping[str, Any]:
    return cfg if isinstance(cfg, Mapping) else vars(cfg)


def _explicit(given: Any) -> Preprocess | ImageTransform:
    if isinstance(given, Preprocess | ImageTransform):
        return given
    if isinstance(given, str):
        if given.lower() in NAMED:
            return NAMED[given.lower()]
        if given.endswith(".json"):
            return Preprocess.read(given)
        what = (
            f"preprocess {given!r} is not known{did_you_mean(given, NAMED) or '.'} Known: "
            f"{', '.join(NAMED)}, or a JSON file of its settings"
        )
        raise PreprocessError(f"{what}. Or {_HELP}", command=what)
    if hasattr(given, "image_processor"):  # a Hugging Face processor of several inputs
        given = given.image_processor
    if hasattr(given, "image_mean") and callable(given):
        return from_hf(given)
    if isinstance(given, Mapping) or type(given).__name__ == "PretrainedCfg":
        return from_timm(_as_mapping(given))
    if isinstance(getattr(given, "meta", None), Mapping) and callable(
        getattr(given, "transforms", None)
    ):
        return from_torchvision(given.transforms(), name=f"torchvision {given}")
    if not callable(given):
        raise PreprocessError(f"preprocess of type {type(given).__name__} is not known; {_HELP}")
    return from_torchvision(given)


# -- timm ------------------------------------------------------------------------------------


def from_timm(cfg: Mapping[str, Any], name: str = "timm config") -> Preprocess:
    """Return the evaluation transform that timm makes from a config, bit-equal to its own.

    Args:
        cfg: `model.pretrained_cfg` or the result of `timm.data.resolve_data_config`.
        name: for reports.

    Raises:
        PreprocessError: the model takes neither one nor three channels, or the config's values
            are not known here.
    """
    channels, *size = cfg.get("input_size") or (3, 224, 224)
    if channels not in (1, 3) or len(size) != 2:
        raise PreprocessError(
            f"{name} asks for inputs of {cfg.get('input_size')}; attnviz prepares photos "
            "(3, h, w), or (1, h, w) in grey: pass tensors, or your own function as preprocess"
        )
    height, width = size
    crop_pct = cfg.get("crop_pct") or 0.875
    scaled = (math.floor(height / crop_pct), math.floor(width / crop_pct))
    mean = tuple(float(v) for v in cfg.get("mean") or IMAGENET_MEAN)
    mode = cfg.get("crop_mode") or "center"
    resize: int | tuple[int, int] = scaled
    fit, pad = "squash", (0, 0, 0)
    if mode == "border":
        red, green, blue = (round(255 * v) for v in (mean * 3)[:3])
        fit, pad = "inside", (red, green, blue)
    elif mode == "center":
        fit = "cover"
        if scaled[0] == scaled[1]:
            resize, fit = scaled[0], "squash"
    elif mode != "squash":
        raise PreprocessError(f"{name} has crop_mode {mode!r}, which is not known here; {_HELP}")
    made = Preprocess(
        resize=resize,
        crop=(height, width),
        mean=mean,
        std=tuple(float(v) for v in cfg.get("std") or IMAGENET_STD),
        interpolation=cfg.get("interpolation") or "bicubic",
        fit=fit,
        pad=pad,
        name=name,
    )
    return made.in_grey() if channels == 1 else made


# -- torchvision -----------------------------------------------------------------------------


def from_torchvision(
    transform: Callable[[Any], Any], name: str = ""
) -> Preprocess | ImageTransform:
    """Return a torchvision preset, Compose or other function of a PIL image as preprocessing."""
    kind = type(transform)
    name = name or getattr(transform, "__qualname__", kind.__name__)
    preset = kind.__module__ == "torchvision.transforms._presets" and kind.__name__ in (
        "ImageClassification",
        "SemanticSegmentation",
    )
    if preset and transform.antialias is not False:
        crop = getattr(transform, "crop_size", None)
        return Preprocess(
            resize=_resize_of(transform.resize_size),
            crop=None if crop is None else _pair(crop),
            mean=tuple(transform.mean),
            std=tuple(transform.std),
            interpolation=transform.interpolation.value,
            name=name,
        )
    if kind.__name__ == "Compose":
        return ImageTransform(transform, name, plan=_plan_of(transform.transforms))
    return ImageTransform(transform, name)


def _pair(size: Any) -> tuple[int, int]:
    size = [size] if isinstance(size, int) else list(size)
    return (size[0], size[0]) if len(size) == 1 else (size[0], size[1])


def _resize_of(size: Any) -> int | tuple[int, int] | None:
    if size is None or isinstance(size, int):
        return size
    return size[0] if len(size) == 1 else (size[0], size[1])


def _plan_of(steps: Any) -> Preprocess | None:
    """Return the sizes of a Resize and CenterCrop in that order, or None if there is more to it."""
    resize: int | tuple[int, int] | None = None
    crop: tuple[int, int] | None = None
    neutral = {"ToTensor", "MaybeToTensor", "PILToTensor", "ConvertImageDtype", "Normalize"}
    neutral |= {"ToImage", "ToDtype", "ToImageTensor", "ToPureTensor", "MaybePILToTensor"}
    for step in steps:
        kind = type(step)
        if not kind.__module__.startswith(("torchvision.transforms", "timm.data")):
            return None
        if kind.__name__ == "Resize" and resize is None and crop is None and not step.max_size:
            resize = _resize_of(step.size)
        elif kind.__name__ == "CenterCrop" and crop is None:
            crop = _pair(step.size)
        elif kind.__name__ not in neutral:
            return None
    return Preprocess(resize=resize, crop=crop, name="torchvision Compose")


# -- Hugging Face ----------------------------------------------------------------------------


def from_hf(processor: Any) -> ImageTransform:
    """Return a Hugging Face image processor as preprocessing: its own tensor, and its geometry."""

    def run(photo: Any) -> Any:
        return processor(images=photo, return_tensors="pt")

    return ImageTransform(run, type(processor).__name__, plan=_plan_of_processor(processor))


def _plan_of_processor(processor: Any) -> Preprocess | None:
    """Return the sizes in a processor's settings; None where its resizing is its own."""
    kind = type(processor).__name__.removesuffix("Fast").removesuffix("Pil")
    plain = {"ViT", "Bit", "CLIP", "DeiT", "Siglip", "Beit", "EfficientNet", "DINOv3ViT"}
    plain |= {"MobileNetV1", "MobileNetV2", "ConvNext", "Levit", "ViTHybrid"}
    if kind.removesuffix("ImageProcessor") not in plain or getattr(processor, "do_pad", False):
        return None
    resize: int | tuple[int, int] | None = None
    crop: tuple[int, int] | None = None
    if getattr(processor, "do_resize", False):
        size = processor.size
        short = size.get("shortest_edge")
        if short and not size.get("longest_edge"):
            resize = short
            if kind.startswith("ConvNext"):
                resize, crop = (short, short), None
                if short < 384:
                    resize, crop = int(short / processor.crop_pct), (short, short)
            elif kind.startswith("Levit"):
                resize = int((256 / 224) * short)
        elif size.get("height") and size.get("width"):
            resize = (size["height"], size["width"])
        else:
            return None
    if getattr(processor, "do_center_crop", False):
        crop = (processor.crop_size["height"], processor.crop_size["width"])
    return Preprocess(resize=resize, crop=crop, floor_crop=True, name=kind)
