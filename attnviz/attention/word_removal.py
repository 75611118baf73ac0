"""Without a region of the photo: how much less likely does each word become?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..erasing import erase
from ..errors import MethodError
from ..hooks import unwrap
from ..models.text import inputs_of
from .word_maps import WordMaps
from .word_passes import log_probabilities

#: what takes the place of the region
REMOVALS = ("mean", "blur")


@dataclass(frozen=True, eq=False)
class WordFall:
    """How much each word's log-probability falls without a region; made by `without_region`.

    Attributes:
        words: of the answer.
        fall: fill -> (W,) log-probability with the region less that without it, the words so far
            being the same; above zero where the region speaks for the word.
        logprob: (W,) with the region.
    """

    words: tuple[str, ...]
    fall: Mapping[str, Tensor]
    logprob: Tensor


def without_region(
    model: nn.Module,
    processor: Any,
    found: WordMaps,
    mask: Any,
    *,
    fills: Sequence[str] = REMOVALS,
) -> WordFall:
    """Take a region from the photo and read the same answer again.

    The counterfactual beside attention: the answer is not written anew, each word is read behind
    the words that were written before it. A filled region is a photo that the model never saw, so
    two fills that agree say more than one.

    Args:
        model, processor: as for `words`.
        found: what `words` returned.
        mask: (H, W) of the photo, non-zero inside.
        fills: of "mean" (the processor's mean colour, or the photo's own outside the region where
            it states none) and "blur" (the surroundings, blurred into the region).

    Raises:
        DataError: the mask is not of the photo's size.
        MethodError: an unknown fill.

    Example:
        >>> fall = without_region(model, processor, found, mask)  # doctest: +SKIP
        >>> dict(zip(fall.words, fall.fall["mean"].tolist()))  # doctest: +SKIP
    """
    unknown = [f for f in fills if f not in REMOVALS]
    if unknown or not fills:
        raise MethodError(f"fills={list(fills)}: expected some of {', '.join(REMOVALS)}")
    region = found.region(mask)
    module = unwrap(model)

    def read(photo: np.ndarray) -> Tensor:
        inputs = inputs_of(module, processor, photo, found.prompt)
        tokens = log_probabilities(module, inputs, found.written)
        return torch.stack([tokens[list(own)].sum() for own in found.members])

    seen = read(found.image)
    fall = {fill: seen - read(_filled(processor, found.image, region, fill)) for fill in fills}
    return WordFall(found.words, fall, seen)


def _filled(processor: Any, photo: np.ndarray, region: np.ndarray, fill: str) -> np.ndarray:
    """Return the photo (H, W, 3) uint8 with the region filled."""
    mean = getattr(getattr(processor, "image_processor", None), "image_mean", None)
    if fill == "mean" and mean is not None and len(mean) == 3:
        colour = np.rint(255 * np.asarray(mean, np.float64)).astype(np.uint8)
        return np.where(region[..., None], colour, photo)
    image = torch.from_numpy(photo).permute(2, 0, 1)[None].float() / 255
    filled = erase(image, torch.from_numpy(region)[None], fill=fill)[0]
    return (255 * filled).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
