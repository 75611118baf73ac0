"""What a layer and its model say of where the channels are."""

from __future__ import annotations

import re
from typing import Any

from torch import nn
from torch.nn.modules.conv import _ConvNd

from ..hooks import named_parts

#: by the number of axes that positions have
_CONVOLUTIONS: dict[int, tuple[type[_ConvNd], ...]] = {
    rank: tuple(getattr(nn, f"{name}{rank}d") for name in ("Conv", "ConvTranspose", "LazyConv"))
    for rank in (1, 2, 3)
}
_FIRST_ONLY = {
    rank: (
        *(
            getattr(nn, f"{name}{rank}d")
            for name in (
                *("BatchNorm", "InstanceNorm", "MaxPool", "AvgPool"),
                *("AdaptiveAvgPool", "AdaptiveMaxPool"),
            )
        ),
        nn.Upsample,
        nn.PixelShuffle,
    )
    for rank in (1, 2, 3)
}

#: attention that is given windows as its batch, and blocks that cut windows inside
_WINDOWS = re.compile(
    r"WindowAttention\w*|WindowMultiHeadAttention\w*|(Donut)?Swin(v2)?(Self)?Attention"
)
_PARTITION = re.compile(r"Partition(Attention|Swap)\w*")

#: families whose blocks keep channels last, where widths and shapes leave it open
_LAST_FAMILIES = ("swin",)
_FIRST_FAMILIES = ("convnext", "resnet", "efficientnet", "maxvit", "coatnet")

_MOVERS = (nn.LayerNorm, nn.RMSNorm, nn.MultiheadAttention)
_MOVING = re.compile(r"attention|permute|transpose|rearrange", re.I)


def name_of(module: nn.Module, layer: nn.Module) -> str:
    """Return the dotted name of a layer, or an empty string where it is not a part."""
    return named_parts(module).get(layer, "")


def ancestors(module: nn.Module, layer: nn.Module) -> list[nn.Module]:
    """Return the layer's ancestors, nearest first; the whole model is the last."""
    name = name_of(module, layer)
    if not name:
        return [module]
    parts = name.split(".")
    found = [module]
    for part in parts[:-1]:
        found.append(getattr(found[-1], part))
    return found[::-1]


def trap(chain: list[nn.Module], ndim: int) -> str:
    """Return why a layer's output only looks like positions, or an empty string.

    Args:
        chain: the layer and its ancestors, nearest first.
        ndim: of the output.
    """
    layer = chain[0]
    if any(_WINDOWS.fullmatch(type(part).__name__) for part in chain[:4]) or any(
        _PARTITION.match(type(part).__name__) for part in chain[1:5]
    ):
        return "it works on windows, not on the picture; choose the block that holds it"
    within = any("attention" in type(part).__name__.lower() for part in chain[1:3])
    if ndim == 4 and within and isinstance(layer, nn.Dropout | nn.Softmax | nn.Identity):
        return "it holds attention weights, not an activation; choose the block around it"
    if ndim != 3:
        return ""
    attention = [m for m in layer.modules() if isinstance(m, nn.MultiheadAttention)]
    if any(not m.batch_first for m in attention):
        return (
            "its attention has batch_first=False, so the first dimension is the tokens; choose a "
            "layer whose output is (B, tokens, C)"
        )
    hiera = next((p for p in chain if type(p).__name__ in ("Hiera", "HieraModel")), None)
    if hiera is not None and not _after_pooling(hiera, layer):
        return (
            "Hiera orders its tokens by mask unit before its last stage, not row by row; choose a "
            "block of the last stage"
        )
    return ""


def _after_pooling(hiera: Any, layer: nn.Module) -> bool:
    if type(hiera).__name__ == "HieraModel":  # of transformers: the units are used up at its end
        *_, last = hiera.encoder.stages
        return layer is last or layer is hiera.encoder or any(layer is m for m in last.layers)
    blocks = list(hiera.blocks)
    ends = list(getattr(hiera, "stage_ends", []))
    last = blocks[ends[-2] + 1 :] if len(ends) > 1 else blocks
    return any(layer is m for b in last for m in b.modules()) or not any(
        layer is m for b in blocks for m in b.modules()
    )


def own_axis(layer: nn.Module, rank: int = 2) -> str | None:
    """Return the layout that the layer's own type settles, for an output of `rank` + 2 axes."""
    if isinstance(layer, (*_CONVOLUTIONS[rank], *_FIRST_ONLY[rank])):
        return "channels_first"
    if isinstance(layer, nn.GroupNorm):
        return "channels_first"
    # subclasses named ...2d permute before and after; only the plain class normalises the last
    if type(layer) in (nn.LayerNorm, nn.RMSNorm) or type(layer).__name__ in (
        "LayerNormFp32",
        "RmsNorm",
    ):
        return "channels_last"
    if isinstance(layer, nn.LayerNorm) and type(layer).__name__.endswith("2d"):
        return "channels_first"
    if type(layer) is nn.Linear:
        return "channels_last"
    if _convolutions_only(layer, rank):
        return "channels_first"
    return None


def _convolutions_only(layer: nn.Module, rank: int) -> bool:
    """Whether every part that has a say takes channels first, and at least one does."""
    firsts = (*_CONVOLUTIONS[rank], *_FIRST_ONLY[rank])
    settling = [
        part
        for part in layer.modules()
        if isinstance(part, (*firsts, nn.Linear, nn.LayerNorm, nn.RMSNorm))
        or next(part.parameters(recurse=False), None) is not None
    ]
    return bool(settling) and all(isinstance(p, firsts) for p in settling)


def widths(layer: nn.Module, rank: int = 2) -> set[int]:
    """Return the widths that the layer's parts end in: what its output's channels can be."""
    found: set[int] = set()
    for part in layer.modules():
        if isinstance(part, _CONVOLUTIONS[rank]):
            found.add(part.out_channels)
        elif isinstance(part, nn.Linear):
            found.add(part.out_features)
        elif isinstance(part, nn.modules.batchnorm._BatchNorm):
            found.add(part.num_features)
        elif isinstance(part, nn.LayerNorm | nn.RMSNorm) and len(part.normalized_shape) == 1:
            found.add(part.normalized_shape[0])
        elif isinstance(part, nn.GroupNorm):
            found.add(part.num_channels)
        else:
            own = part.parameters(recurse=False)
            found.update(p.shape[-1] for p in own if p.ndim == 1 and p.shape[0] > 1)
    return found


def by_aspect(shape: tuple[int, ...], input_size: tuple[int, ...] | None) -> str | None:
    """Return the layout under which alone the positions have the input's shape, or None."""
    size = input_size or (1, 1)
    first, last = plausible(shape[2:], size), plausible(shape[1:-1], size)
    if first == last:
        return None
    return "channels_first" if first else "channels_last"


def plausible(spatial: tuple[int, ...], input_size: tuple[int, ...]) -> bool:
    """Return whether (h, w) positions can come from an (H, W) input by one stride.

    Signals and volumes may have a stride of their own along every axis.
    """
    if len(spatial) != 2:
        return all(n <= size for n, size in zip(spatial, input_size, strict=True))
    height, width = spatial
    if input_size == (1, 1):
        return height == width  # nothing known: square inputs are the rule
    if height > input_size[0] or width > input_size[1]:
        return False
    # padding and rounding move either side by a position or two
    stride = (input_size[0] / height, input_size[1] / width)
    slack = 1 + 2 / min(height, width)
    return max(stride) / min(stride) <= slack


def by_family(chain: list[nn.Module], rank: int = 2) -> str | None:
    """Return the layout of a known family, for shapes that leave it open (96 x 96 x 96).

    Args:
        chain: the layer and its ancestors, nearest first.
        rank: number of axes of the positions.
    """
    module = chain[-1]
    for part in chain:
        name = type(part).__name__.lower()
        if name.startswith(_FIRST_FAMILIES):
            return "channels_first"
        if name.startswith(_LAST_FAMILIES):
            return "channels_last"
    # a network of convolutions alone has no reason to move its channels
    if any(isinstance(part, _CONVOLUTIONS[rank]) for part in module.modules()) and not any(
        type(part) in _MOVERS or _MOVING.search(type(part).__name__) for part in module.modules()
    ):
        return "channels_first"
    return None
