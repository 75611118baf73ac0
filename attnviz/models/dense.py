"""Dense prompt maps: where on a photo an image-text model sees what a prompt names.

An image-text model was trained to compare whole photos with texts. Let the last block of its image
tower hand on what it attends to at each patch by itself, and its head reads that as it reads a
photo: a logit for each patch and prompt (MaskCLIP: Zhou et al. 2022, arXiv:2112.01071). Here each
patch attends to the patches whose keys are like its own and that lie near it, and the block's skip
connection and perceptron are left out (NACLIP: Hajimiri et al. 2024, arXiv:2404.08181).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import ModelError, TargetError
from ..geometry import Geometry
from ..hooks import own_thread, preserved
from ..render.place import place_tensor
from ..statistics.clustering import otsu
from .argument import device_of, dtype_of
from .loaded import LoadedModel
from .prompts import zero_shot
from .resolving import resolve_preprocess


@dataclass(frozen=True, eq=False)
class DensePrompts:
    """An image-text model that says where on a photo it sees the first of its prompts.

    Attributes:
        model: the prompts as a classifier, as `zero_shot` makes it.
        labels: the prompts: what is looked for, and what else there is.
        name: of the model.
        spread: deviation in cells of the Gaussian that prefers near patches; 5 in the paper, for
            14 x 14 cells and more.
    """

    model: LoadedModel
    labels: tuple[str, ...]
    name: str
    spread: float = 5.0

    def maps(self, images: Tensor) -> Tensor:
        """Return the logit of each prompt at each patch, (B, K, h, w).

        Args:
            images: (B, 3, H, W) as the model takes them.

        Raises:
            ModelError: images that are no squares; a tower that reads no single patch.
        """
        module, batch = self.model.module, len(images)
        if images.shape[-1] != images.shape[-2]:
            raise ModelError(f"dense prompt maps take square images, got {tuple(images.shape)}")
        block = _last_block(module, self.name)

        @own_thread
        def alone(part: nn.Module, inputs: Any, kwargs: Any, output: Any) -> Any:
            tokens = inputs[0] if inputs else kwargs["hidden_states"]
            read = _attended(part, tokens, self.spread)
            # each patch by itself, as if it were what the head reads of a photo
            read = read[:, -(_side(read.shape[1]) ** 2) :].flatten(0, 1)[:, None]
            return (read, *output[1:]) if isinstance(output, tuple) else read

        with torch.no_grad(), preserved(module, eval_mode=True):
            handle = block.register_forward_hook(alone, with_kwargs=True)
            try:
                logits = module(images)
            finally:
                handle.remove()
        side = math.isqrt(len(logits) // batch)
        found = logits.view(batch, side, side, -1).movedim(-1, 1)
        if not found.isfinite().all():
            raise ModelError(
                f"{self.name} reads the mean of its patches, not a class token, and gives none for "
                "a single patch; dense prompt maps need a class token or a pooling attention"
            )
        return found

    def of(self, photo: np.ndarray) -> tuple[Tensor, Geometry]:
        """Return the prompts' logits (K, h, w) on a photo, uint8 RGB, and where they lie on it."""
        module = self.model.module
        inputs, place = resolve_preprocess(None, module, self.model)(photo)
        return self.maps(inputs[None].to(device_of(module), dtype_of(module)))[0], place

    def __call__(self, photo: np.ndarray) -> np.ndarray:
        """Return where the first prompt is, (h, w) bool.

        There its logit is above those of all other prompts, by more than the threshold that splits
        the photo best (Otsu 1979): what a photo as a whole is of leaks into all of its patches.
        Outside of the model's crop it is nowhere.

        Args:
            photo: (h, w, 3) uint8 RGB.
        """
        maps, place = self.of(photo)
        ahead = maps[0] - maps[1:].amax(0)
        least = max(0.0, otsu(ahead.flatten()))
        return (place_tensor(ahead[None].float(), place)[0] > least).cpu().numpy()


def dense_prompts(
    model: Any, prompts: Sequence[str], *, tokenizer: Any = None, spread: float = 5.0
) -> DensePrompts:
    """Return an image-text model as a segmenter of a prompt: NACLIP (arXiv:2404.08181).

    Takes CLIP of Hugging Face, open_clip and timm towers. What each place is, is a contest: name
    what else is on the photos behind what is looked for.

    Args:
        model, prompts, tokenizer: as in `zero_shot`.
        spread: as in `DensePrompts`.

    Raises:
        ModelError, TargetError: as `zero_shot`; a single prompt, or a tower of another kind.

    Example:
        >>> find = dense_prompts(attnviz.load("tiny-clip"), ["water", "land"])  # doctest: +SKIP
        >>> water = find(photo)  # doctest: +SKIP
    """
    if len(prompts) < 2:
        raise TargetError(
            f"{list(prompts)!r} is a contest without a rival: name what else is on the photos, "
            'such as ["water", "land"]'
        )
    found = zero_shot(model, prompts, tokenizer=tokenizer)
    _last_block(found.module, found.name)
    return DensePrompts(found, tuple(prompts), found.name, spread)


def _last_block(module: nn.Module, name: str) -> nn.Module:
    """Return the image tower's last block."""
    found = [
        part for path, part in module.named_modules()
        if _parts(part) is not None and "attn_pool" not in path
    ]  # fmt: skip
    if not found:
        raise ModelError(
            f"the image tower of {name} is no transformer of Hugging Face's CLIP, open_clip or "
            "timm, so what each patch attends to cannot be read out by itself"
        )
    return found[-1]


def _parts(block: Any) -> tuple[Any, Any] | None:
    """Return the norm and the attention of a block whose queries, keys and values are known."""
    for norm, attention in (("layer_norm1", "self_attn"), ("norm1", "attn"), ("ln_1", "attn")):
        first, second = getattr(block, norm, None), getattr(block, attention, None)
        known = isinstance(second, nn.MultiheadAttention) or any(
            all(hasattr(second, p) for p in names)
            for names in (("k_proj", "v_proj", "out_proj"), ("qkv", "proj", "num_heads"))
        )
        if first is not None and known:
            return first, second
    return None


def _attended(block: Any, tokens: Tensor, spread: float) -> Tensor:
    """Return what the attention of a block hands on, keys in place of queries, (B, T, C)."""
    parts = _parts(block)
    assert parts is not None
    norm, attention = parts
    seen = norm(tokens)
    if hasattr(attention, "qkv"):
        _, keys, values = attention.qkv(seen).chunk(3, -1)
        out = attention.proj
    elif isinstance(attention, nn.MultiheadAttention):
        if not attention.batch_first:
            seen = seen.transpose(0, 1)
        packed = nn.functional.linear(seen, attention.in_proj_weight, attention.in_proj_bias)
        _, keys, values = packed.chunk(3, -1)
        out = attention.out_proj
    else:
        keys, values, out = attention.k_proj(seen), attention.v_proj(seen), attention.out_proj
    heads = int(attention.num_heads)
    keys, values = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (keys, values))
    key_norm: Any = getattr(attention, "k_norm", None)
    if key_norm is not None:
        keys = key_norm(keys)
    similar = keys @ keys.transpose(-2, -1) * keys.shape[-1] ** -0.5
    side = _side(keys.shape[2])
    y, x = torch.arange(side * side).div(side, rounding_mode="floor"), torch.arange(side**2) % side
    apart = (y[:, None] - y).square() + (x[:, None] - x).square()
    near = torch.exp(-apart / (2 * spread**2)).to(similar)
    similar[..., -(side**2) :, -(side**2) :] += near
    read = (similar.softmax(-1) @ values).transpose(1, 2).flatten(2)
    return out(read)


def _side(tokens: int) -> int:
    """Return the side of the square of patches among tokens, fewer than a row of them before it."""
    return math.isqrt(tokens)
