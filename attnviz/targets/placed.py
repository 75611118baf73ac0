"""Targets that are places of the photo, or other photos: made ready once the batch is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import TargetError
from ..geometry import Geometry, size_of
from ..models.classes import class_index
from ..models.outputs import class_column, class_count, logits_of
from .kinds import Target, class_name


@dataclass(frozen=True)
class Setting:
    """What a target may ask about the batch that it is explained in.

    Attributes:
        batch: number of images.
        input_size: (H, W) of the model's input, None where it is no picture.
        geometry: where each input lies on its photo; None where inputs were given as tensors.
        embed: runs the model on another photo, and returns its output.
        words: that a `CaptionScorer` scores.
    """

    batch: int
    input_size: tuple[int, int] | None
    geometry: Sequence[Geometry] | None
    embed: Callable[[Any], Any]
    words: Sequence[str] = ()

    def places(self) -> list[Geometry]:
        """Return where each input lies on its photo; a tensor is its own photo."""
        if self.geometry is not None:
            return list(self.geometry)
        if self.input_size is None:
            raise TargetError("a region or pixel as target needs an input that is a picture")
        return [Geometry.identity(*self.input_size)] * self.batch


@dataclass(frozen=True, eq=False)
class PhotoRegion(Target):
    """The mean logit of a class over a region of the photo, for a dense output (B, K, h, w).

    Each cell of the output counts by the share of it that the region covers.

    Args:
        region: a mask file, an array (H, W) of the photo's size, or a pixel (x, y) of the photo.
        cls: index or label; None is the class whose mean logit there is the highest.
    """

    region: str | Path | np.ndarray | tuple[float, float]
    cls: int | str | None = None
    inside: Tensor | None = None
    index: int | None = None
    label: str = "region"

    def ready(self, setting: Setting) -> PhotoRegion:
        """Return the target with its region on each input, (B, H, W)."""
        if self.inside is not None:
            return self
        masks = [self._on_input(place) for place in setting.places()]
        if any(not bool(mask.any()) for mask in masks):
            raise TargetError(f"the region {self._name()} is empty, or outside what the model sees")
        return replace(self, inside=torch.stack(masks), label=f"region {self._name()}")

    def _on_input(self, place: Geometry) -> Tensor:
        from ..data.masks import read_label_image
        from ..data.prepared import mask_on_input

        if isinstance(self.region, tuple):
            x, y = place.to_input(self.region[0] + 0.5, self.region[1] + 0.5)
            height, width = place.input_size
            mask = torch.zeros(height, width, dtype=torch.bool)
            if 0 <= x < width and 0 <= y < height:
                mask[int(y), int(x)] = True
            return mask
        mask = self.region
        if not isinstance(mask, np.ndarray):
            mask = read_label_image(Path(mask))
        if mask.shape[:2] != tuple(place.image_size):
            raise TargetError(
                f"the region {self._name()} is {mask.shape[:2]} (height, width), the photo "
                f"{tuple(place.image_size)}"
            )
        return mask_on_input(mask != 0, place)

    def _name(self) -> str:
        if isinstance(self.region, np.ndarray):
            return "given"
        if isinstance(self.region, tuple):
            return f"({self.region[0]:g}, {self.region[1]:g})"
        return Path(self.region).name

    def bind(self, classes: int, labels: Sequence[str] | None) -> PhotoRegion:
        """Return the target with its class index and label."""
        if self.cls is None:
            return self
        index = class_index(self.cls, classes, labels)
        return replace(self, index=index, label=f"{class_name(index, labels)} in {self.label}")

    def copies(self, images: Sequence[int]) -> PhotoRegion:
        """Return the target with each copy's own region."""
        return replace(self, inside=None if self.inside is None else self.inside[list(images)])

    def score(self, output: Any) -> Tensor:
        """Return the mean logits inside the region, (B,)."""
        logits = logits_of(output)
        if logits.ndim != 4:
            raise TargetError(
                f"a region needs an output of shape (B, classes, h, w), got {tuple(logits.shape)}; "
                "for a classifier explain a class"
            )
        if self.inside is None:
            raise TargetError("a region of the photo is made ready by `explain` only")
        share = self.inside.to(logits.device, logits.dtype)[:, None]
        share = F.adaptive_avg_pool2d(share, size_of(logits))
        share = share / share.sum((2, 3), keepdim=True)
        if self.index is not None:
            return (class_column(logits, self.index) * share[:, 0]).sum((1, 2))
        columns = [class_column(logits, k) for k in range(class_count(logits))]
        means = (torch.stack(columns, 1) * share).sum((2, 3))
        return means.gather(1, means.detach().argmax(1, keepdim=True))[:, 0]

    def describe(self) -> Any:
        """Return what is explained as text."""
        return self.label


@dataclass(frozen=True, eq=False)
class EmbeddingTarget(Target):
    """The cosine between an image's embedding and that of another photo, in [-1, 1].

    For models that return an embedding (B, D), such as a backbone without its classifier; of
    CLIP's output the image embedding is taken.

    Args:
        photo: anything `read_image` reads.
    """

    photo: Any
    reference: Tensor | None = None
    label: str = "embedding"

    def ready(self, setting: Setting) -> EmbeddingTarget:
        """Return the target with the other photo's embedding, (1, D)."""
        if self.reference is not None:
            return self
        name = Path(self.photo).name if isinstance(self.photo, str | Path) else "another photo"
        with torch.no_grad():
            reference = _embedding(setting.embed(self.photo)).detach()
        return replace(self, reference=reference, label=f"embedding of {name}")

    def score(self, output: Any) -> Tensor:
        """Return the cosines, (B,)."""
        if self.reference is None:
            raise TargetError("an embedding is made ready by `explain` only")
        return F.cosine_similarity(_embedding(output), self.reference, dim=1)

    def describe(self) -> Any:
        """Return what is explained as text."""
        return self.label


def _embedding(output: Any) -> Tensor:
    found = getattr(output, "image_embeds", None)
    found = found if isinstance(found, Tensor) else logits_of(output)
    if found.ndim != 2:
        raise TargetError(f"an embedding is (B, D), the model's output {tuple(found.shape)}")
    return found


def ready(target: Any, setting: Setting) -> Any:
    """Return a target, or a list of them, made ready for a batch; all else as it is."""
    if isinstance(target, list | tuple):
        made: dict[int, Any] = {}
        for one in target:
            made.setdefault(id(one), ready(one, setting))
        return [made[id(one)] for one in target]
    return target.ready(setting) if hasattr(target, "ready") else target
