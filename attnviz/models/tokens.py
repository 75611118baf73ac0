"""What a model says of its tokens: which are no patches, and how the patches tile the input."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..hooks import named_parts
from .evidence import plausible

#: parameters that hold tokens put before (or after) the patches
_PREFIX_TOKENS = re.compile(
    r"cls_tokens?|class_token|class_embedding|dist_token|distillation_token|reg_token"
    r"|register_tokens|reg_tokens|storage_tokens"
)
_BRANCH_TOKENS = re.compile(r"cls_token_?\d+")
_SUFFIX_TOKENS = re.compile(r"detection_tokens")

#: modules that cut the input into patches, as models call them
_EMBEDDERS = ("patch_embed", "patch_embeds", "patch_embeddings", "embeddings", "stem")

#: in names and types of what halves the grid between the stages of a pyramid; a line each, lower
_STAGES = ("downsampl", "merging", "unroll", "\nstages", ".stages", "\ntransformers.1",
           ".transformers.1", "patch_embeds.1", "patch_embeddings.1", "patch_embed.1")  # fmt: skip
_EMBEDDING = "patch_embed."

#: families whose stem of convolutions states no patch size
_PATCHES = {
    "Levit": (16, 16),
    "LevitDistilled": (16, 16),
    "Hiera": (4, 4),
    "EfficientFormer": (4, 4),
}


@dataclass(frozen=True)
class TokenFacts:
    """What a model says of its tokens.

    Attributes:
        prefixes: how many tokens may come before the patches, by what the model holds.
        suffix: how many come after them.
        patches: (height, width) of a patch in pixels; several where there are several scales.
        grids: (h, w) of the patches that the model was built for.
        pyramid: whether the grid is halved from stage to stage.
        padded: whether rows of patches are filled up at their end to one length (NaFlex).
    """

    prefixes: tuple[int, ...] = ()
    suffix: int = 0
    patches: tuple[tuple[int, int], ...] = ()
    grids: tuple[tuple[int, int], ...] = ()
    pyramid: bool = False
    padded: bool = False

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


def token_facts(chain: list[nn.Module]) -> TokenFacts:
    """Collect what the model around a layer says of its tokens; the nearest ancestor wins.

    Args:
        chain: the layer and its ancestors, nearest first.
    """
    prefixes: tuple[int, ...] = ()
    suffix = 0
    patches: list[tuple[int, int]] = []
    grids: list[tuple[int, int]] = []
    pyramid = padded = False
    for part in chain:
        if not patches:
            patches, grids = _patches(part)
            pyramid = bool(patches) and _halves(part)
        if not prefixes:
            prefixes, suffix = _ends(part)
        kind = getattr(getattr(part, "config", None), "model_type", None) or ""
        padded = padded or kind.startswith("siglip2")
    return TokenFacts(prefixes, suffix, tuple(patches), tuple(grids), pyramid, padded)


def _halves(part: nn.Module) -> bool:
    """Return whether a network has stages; in one without, 16 tokens are no quarter of a grid."""
    parts = [(m, name) for m, name in named_parts(part).items() if not name.startswith(_EMBEDDING)]
    types = {type(m) for m, _ in parts}
    text = "\n".join(["", *(name for _, name in parts), *(t.__name__ for t in types)]).lower()
    return any(word in text for word in _STAGES)


def _patches(part: nn.Module) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    patches: list[tuple[int, int]] = []
    grids: list[tuple[int, int]] = []
    if type(part).__name__ in _PATCHES:
        return [_PATCHES[type(part).__name__]], []
    for owner in _embedders(part):
        # where patches overlap (HF Hiera) they are as far apart as the stride says
        patch = _pair(getattr(owner, "patch_stride", None) or getattr(owner, "patch_size", None))
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
        for name, tokens in owner._parameters.items()
        if tokens is not None and names.fullmatch(name)
    ]


def grids(
    count: int, facts: TokenFacts, input_size: tuple[int, int] | None
) -> list[tuple[int, tuple[int, int], int]]:
    """Return every (prefix, grid, suffix) that is consistent with all that is known."""
    ends = [(prefix, facts.suffix) for prefix in facts.prefixes]
    ends += [(0, facts.suffix), (0, 0)]
    levels = range(6 if facts.pyramid else 1)
    candidates: list[tuple[int, int]] = []
    if input_size is not None:
        strides = [(h * 2**k, w * 2**k) for h, w in facts.patches for k in levels]
        if facts.prefixes and not facts.patches and not facts.grids:
            # what is no patch is known, so one stride in both directions must make up the rest
            strides = [(step, step) for step in range(1, min(input_size) + 1)]
        for steps in strides:
            for rounded in (math.ceil, math.floor):
                sides = [rounded(a / b) for a, b in zip(input_size, steps, strict=True)]
                candidates.append((sides[0], sides[1]))
    if facts.padded:
        ends += [(0, count - h * w) for h, w in candidates if h * w < count]
    found = _matching(count, candidates, ends)
    if found:
        return found
    # the input's size is not given, or the model rescales it for a branch of its own
    candidates = [
        (math.ceil(height / 2**k), math.ceil(width / 2**k))
        for height, width in facts.grids
        if input_size is None or plausible((height, width), input_size)
        for k in levels
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
