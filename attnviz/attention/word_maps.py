"""Where a vision-language model looks for each word that it says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import DataError, MethodError
from ..geometry import Geometry, size_of
from ..heatmaps import Heatmaps
from .written import Written

#: the maps that a word can have
WORD_METHODS = ("attention", "tam", "rollout", "gradient")

#: what the numbers of each are
WORD_UNITS = {"attention": "share of attention", "tam": "logit", "rollout": "share of attention",
              "gradient": "logit"}  # fmt: skip


@dataclass(frozen=True)
class WordMass:
    """Where the attention of each word goes, in shares that sum to 1; made by `WordMaps.mass`.

    Attributes:
        words: of the answer.
        inside: (W,) to image tokens in the region.
        outside: (W,) to the rest of the photo.
        text: (W,) to the prompt, the words so far, and image tokens that are no place of the photo
            (class tokens, ends of rows, padding). Of a model whose words see the image in layers
            of their own, only these layers count.
    """

    words: tuple[str, ...]
    inside: Tensor
    outside: Tensor
    text: Tensor


@dataclass(frozen=True, eq=False, repr=False)
class WordMaps(Written):
    """The words that a model wrote about a photo, each with its maps; made by `words`.

    Attributes:
        prompt: what was asked; the answer is `text`.
        layers: (W, L, h, w) attention of the rows that wrote the word to the image, each layer's
            mean over heads, in shares of the row.
        text_share: (W, L) what these rows give to all else.
        maps: method -> (W, h, w).
        names: of the L layers.
        image: the photo (H, W, 3) uint8 RGB.
        geometry: where what the model sees lies on the photo.
        model: its class.
        heads: of each layer (W, H, h, w), its heads one by one; empty unless asked for.
    """

    prompt: str
    layers: Tensor
    text_share: Tensor
    maps: Mapping[str, Tensor]
    names: tuple[str, ...]
    image: np.ndarray
    geometry: Geometry
    model: str
    heads: tuple[Tensor, ...] = ()

    def __repr__(self) -> str:
        size = " x ".join(map(str, self.layers.shape[-2:]))
        return f"WordMaps({len(self.words)} words over {size} patches: {self.text!r})"

    def heatmaps(self, method: str = "attention") -> Heatmaps:
        """Return the maps of all words, to be drawn, measured or saved like any other.

        Raises:
            MethodError: the maps were not asked for, or the model has none.
        """
        if method not in self.maps:
            raise MethodError(
                f"method={method!r}: made were {', '.join(self.maps)}; ask for others with "
                f"words(..., methods=[...]), of {', '.join(WORD_METHODS)}"
            )
        count = len(self.words)
        names = self.names
        return Heatmaps(
            values=self.maps[method],
            method={"attention": "word_attention", "gradient": "word_gradient"}.get(method, method),
            layer=names[0] if len(names) == 1 else f"{names[0]} ... {names[-1]}",
            target=self.words,
            label=self.words,
            score=self.logprob,
            geometry=(self.geometry,) * count,
            images=(self.image,) * count,
            units=WORD_UNITS[method],
            meta={"model": self.model, "prompt": self.prompt, "text": self.text},
        )

    def word(self, which: int | str, method: str = "attention") -> Heatmaps:
        """Return the map of one word, by number or as it is written (its first place).

        Raises:
            DataError: the answer has no such word.
            MethodError: see `heatmaps`.
        """
        if isinstance(which, str):
            found = [i for i, word in enumerate(self.words) if word.lower() == which.lower()]
            if not found:
                raise DataError(f"the answer {self.text!r} has no word {which!r}")
            which = found[0]
        return self.heatmaps(method)[which]

    def region(self, mask: Any) -> np.ndarray:
        """Return a mask (H, W) of the photo as bool, non-zero inside.

        Raises:
            DataError: the mask is not of the photo's size.
        """
        region = np.asarray(mask) != 0
        if region.shape != self.image.shape[:2]:
            raise DataError(
                f"the region's mask is {region.shape} (height, width), the photo "
                f"{self.image.shape[:2]}"
            )
        return region

    def mass(self, mask: Any) -> WordMass:
        """Return how much of each word's attention goes to a region, the rest, and the text.

        Args:
            mask: (H, W) of the photo, non-zero inside.

        Raises:
            DataError: the mask is not of the photo's size.
        """
        from ..data.prepared import mask_share

        region = self.region(mask)
        grid = size_of(self.layers)
        on_input = torch.from_numpy(mask_share(region, self.geometry))[None]
        share = F.adaptive_avg_pool2d(on_input.to(self.layers), grid)
        seen = self.layers.mean(1)
        inside = (seen * share).sum((1, 2))
        text = self.text_share.mean(1)
        return WordMass(self.words, inside, 1 - text - inside, text)

    def save(self, path: str | Path, *, title: str = "", force: bool = False) -> Path:
        """Write a page for all words, offline: hover or click a word to see its map.

        Of maps with heads it stays below 5 MB: in 255 steps where there is room, else in 15, else
        with neighbouring patches averaged; the page says which.

        Raises:
            OutputExists: the file exists and `force` is not set.
        """
        from .views.word_page import save_words

        return save_words(self, path, title=title, force=force)
