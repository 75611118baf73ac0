"""What a layer and its model say of how activations are laid out."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

_CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d, nn.LazyConv2d)
_FIRST_ONLY = (
    nn.BatchNorm2d,
    nn.InstanceNorm2d,
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
    nn.Upsample,
    nn.PixelShuffle,
)

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

#: parameters that hold tokens put before (or after) the patches
_PREFIX_TOKENS = re.compile(
    r"cls_tokens?|class_token|class_embedding|dist_token|distillation_token|reg_token"
    r"|register_tokens|reg_tokens|storage_tokens"
)
_BRANCH_TOKENS = re.compile(r"cls_token_?\d+")
_SUFFIX_TOKENS = re.compile(r"detection_tokens")

#: modules that cut the input into patches, as models call them
_EMBEDDERS = ("patch_embed", "patch_embeds", "patch_embeddings", "embeddings", "stem")

#: families whose stem of convolutions states no patch size
_PATCHES = {"Levit": (16, 16), "LevitDistilled": (16, 16), "Hiera": (4, 4)}


def name_of(module: nn.Module, layer: nn.Module) -> str:
    """Return the dotted name of a layer, or an empty string where it is not a part."""
    return next((n for n, m in module.named_modules() if m is layer), "")


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


def trap(module: nn.Module, layer: nn.Module, ndim: int) -> str:
    """Return why this layer's output only looks like positions, or an empty string."""
    chain = [layer, *ancestors(module, layer)]
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
    hiera = next((part for part in chain if type(part).__name__ == "Hiera"), None)
    if hiera is not None and not _after_pooling(hiera, layer):
        return (
            "Hiera orders its tokens by mask unit before its last stage, not row by row; choose a "
            "block of the last stage"
        )
    return ""


def _after_pooling(hiera: Any, layer: nn.Module) -> bool:
    blocks = list(hiera.blocks)
    ends = list(getattr(hiera, "stage_ends", []))
    last = blocks[ends[-2] + 1 :] if len(ends) > 1 else blocks
    return any(layer is m for b in last for m in b.modules()) or not any(
        layer is m for b in blocks for m in b.modules()
    )


def own_axis(layer: nn.Module) -> str | None:
    """Return the layout that the layer's own type settles, for a four-dimensional output."""
    if isinstance(layer, (*_CONVOLUTIONS, *_FIRST_ONLY)):
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
    if _convolutions_only(layer):
        return "channels_first"
    return None


def _convolutions_only(layer: nn.Module) -> bool:
    """Whether every part that has a say takes channels first, and at least one does."""
    settling = [
        part
        for part in layer.modules()
        if isinstance(part, (*_CONVOLUTIONS, *_FIRST_ONLY, nn.Linear, nn.LayerNorm, nn.RMSNorm))
        or next(part.parameters(recurse=False), None) is not None
    ]
    return bool(settling) and all(isinstance(p, (*_CONVOLUTIONS, *_FIRST_ONLY)) for p in settling)


def widths(layer: nn.Module) -> set[int]:
    """Return the widths that the layer's parts end in: what its output's channels can be."""
    found: set[int] = set()
    for part in layer.modules():
        if isinstance(part, _CONVOLUTIONS):
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


def by_aspect(shape: tuple[int, ...], input_size: tuple[int, int] | None) -> str | None:
    """Return the layout under which alone the positions have the input's shape, or None."""
    size = input_size or (1, 1)
    first, last = plausible(shape[2:], size), plausible(shape[1:3], size)
    if first == last:
        return None
    return "channels_first" if first else "channels_last"


def plausible(spatial: tuple[int, ...], input_size: tuple[int, int]) -> bool:
    """Return whether (h, w) positions can come from an (H, W) input by one stride."""
    height, width = spatial
    if input_size == (1, 1):
        return height == width  # nothing known: square inputs are the rule
    if height > input_size[0] or width > input_size[1]:
        return False
    # padding and rounding move either side by a position or two
    stride = (input_size[0] / height, input_size[1] / width)
    slack = 1 + 2 / min(height, width)
    return max(stride) / min(stride) <= slack


def by_family(module: nn.Module, layer: nn.Module) -> str | None:
    """Return the layout of a known family, for shapes that leave it open (96 x 96 x 96)."""
    for part in [layer, *ancestors(module, layer)]:
        name = type(part).__name__.lower()
        if name.startswith(_FIRST_FAMILIES):
            return "channels_first"
        if name.startswith(_LAST_FAMILIES):
            return "channels_last"
    # a network of convolutions alone has no reason to move its channels
    if any(isinstance(part, nn.Conv2d) for part in module.modules()) and not any(
        type(part) in _MOVERS or _MOVING.search(type(part).__name__) for part in module.modules()
    ):
        return "channels_first"
    return None


# -- tokens ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class TokenFacts:
    """What a model says of its tokens.

    Attributes:
        prefixes: how many tokens may come before the patches, by what the model holds.
        suffix: how many come after them.
        patches: (height, width) of a patch in pixels; several where there are several scales.
        grids: (h, w) of the patches that the model was built for.
    """

    prefixes: tuple[int, ...] = ()
    suffix: int = 0
    patches: tuple[tuple[int, int], ...] = ()
    grids: tuple[tuple[int, int], ...] = ()

    def describe(self) -> str:
        """Return the facts in words."""
        parts = []
        if self.prefixes:
            parts.append(f"{' or '.join(map(str, self.prefixes))} prefix tokens")
        if self.patches:
            parts.append("patches of " + " or ".join(f"{h} x {w}" for h, w in self.patches))
        if self.grids:
            parts.append("grid " + " or ".join(f"{h} x {w}" for h, w in self.grids))
        return ", ".join(parts) or "nothing"


def _pair(value: Any) -> tuple[int, int] | None:
    if isinstance(value, int) and value > 0:
        return value, value
    if isinstance(value, tuple | list) and len(value) == 2 and all(type(v) is int for v in value):
        return value[0], value[1]
    return None


def token_facts(module: nn.Module, layer: nn.Module) -> TokenFacts:
    """Collect what the model around a layer says of its tokens; the nearest ancestor wins."""
    prefixes: tuple[int, ...] = ()
    suffix = 0
    patches: list[tuple[int, int]] = []
    grids: list[tuple[int, int]] = []
    for part in [layer, *ancestors(module, layer)]:
        if not patches:
            patches, grids = _patches(part)
        if not prefixes:
            prefixes, suffix = _ends(part)
    return TokenFacts(prefixes, suffix, tuple(patches), tuple(grids))


def _patches(part: nn.Module) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    patches: list[tuple[int, int]] = []
    grids: list[tuple[int, int]] = []
    if type(part).__name__ in _PATCHES:
        return [_PATCHES[type(part).__name__]], []
    for owner in _embedders(part):
        patch = _pair(getattr(owner, "patch_size", None))
        grid = _pair(getattr(owner, "grid_size", None))
        size = _pair(getattr(owner, "img_size", None) or getattr(owner, "image_size", None))
        if patch is not None:
            patches.append(patch)
            if grid is None and size is not None:
                grid = (size[0] // patch[0], size[1] // patch[1])
        if grid is not None:
            grids.append(grid)
    return list(dict.fromkeys(patches)), list(dict.fromkeys(grids))


def _embedders(part: nn.Module) -> Iterator[Any]:
    for name in _EMBEDDERS:
        owner = getattr(part, name, None)
        if isinstance(owner, nn.ModuleList):
            yield from owner
        elif owner is not None:
            yield from (o for o in (owner, getattr(owner, "patch_embeddings", None)) if o)
    config = getattr(part, "config", None)
    if config is not None:
        yield getattr(config, "vision_config", config)
    yield part


def _ends(part: nn.Module) -> tuple[tuple[int, ...], int]:
    """Return the possible numbers of tokens before the patches, and the number behind them."""
    stated = getattr(part, "num_prefix_tokens", None)
    owners = [part, *part.children()]
    owners += [inner for child in owners[1:] if isinstance(child, nn.ModuleList) for inner in child]
    after = sum(count for owner in owners for count in _held(owner, _SUFFIX_TOKENS))
    if isinstance(stated, int):
        return (stated,), after
    together = sum(count for owner in owners for count in _held(owner, _PREFIX_TOKENS))
    # cls_token1, cls_token2, ...: one of them in front of the patches of each branch
    branches = {count for owner in owners for count in _held(owner, _BRANCH_TOKENS)}
    found = {together + count for count in branches} or {together}
    return tuple(sorted(found - {0})), after


def _held(owner: nn.Module, names: re.Pattern[str]) -> list[int]:
    """Return how many tokens each parameter with such a name holds."""
    return [
        1 if tokens.ndim == 1 else math.prod(tokens.shape[:-1])
        for name, tokens in owner.named_parameters(recurse=False)
        if names.fullmatch(name)
    ]


def grids(
    count: int, facts: TokenFacts, input_size: tuple[int, int] | None
) -> list[tuple[int, tuple[int, int], int]]:
    """Return every (prefix, grid, suffix) that is consistent with all that is known."""
    ends = [(prefix, facts.suffix) for prefix in facts.prefixes]
    ends += [(0, facts.suffix), (0, 0)]
    candidates: list[tuple[int, int]] = []
    if input_size is not None:
        # pyramids halve the grid from stage to stage
        strides = [(h * 2**k, w * 2**k) for h, w in facts.patches for k in range(6)]
        if facts.prefixes and not facts.patches and not facts.grids:
            # what is no patch is known, so one stride in both directions must make up the rest
            strides = [(step, step) for step in range(1, min(input_size) + 1)]
        for steps in strides:
            for rounded in (math.ceil, math.floor):
                sides = [rounded(a / b) for a, b in zip(input_size, steps, strict=True)]
                candidates.append((sides[0], sides[1]))
    found = _matching(count, candidates, ends)
    if found:
        return found
    # the input's size is not given, or the model rescales it for a branch of its own
    candidates = [
        (math.ceil(height / 2**k), math.ceil(width / 2**k))
        for height, width in facts.grids
        if input_size is None or plausible((height, width), input_size)
        for k in range(6)
    ]
    return _matching(count, candidates, ends)


def _matching(
    count: int, grids: list[tuple[int, int]], ends: list[tuple[int, int]]
) -> list[tuple[int, tuple[int, int], int]]:
    return [
        (prefix, grid, suffix)
        for grid in dict.fromkeys(grids)
        for prefix, suffix in dict.fromkeys(ends)
        if prefix + grid[0] * grid[1] + suffix == count and min(grid) > 0
    ]
