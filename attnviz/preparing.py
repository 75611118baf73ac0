"""Batches ready for a model, from whatever was given: photos, tensors, several inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .errors import ImageError
from .geometry import Geometry
from .images import read_image
from .inputs import Given, Inputs, frames_first, size_of
from .models import LoadedModel, resolve_preprocess
from .models.argument import device_of, dtype_of


@dataclass(frozen=True)
class PreparedBatch:
    """One batch, ready for the model, and where it came from."""

    tensor: Inputs
    geometry: tuple[Geometry, ...] | None = None
    images: tuple[np.ndarray, ...] | None = None
    sources: tuple[str | None, ...] | None = None
    inner: tuple[Geometry, ...] | None = None  # where what the layers see lies on the photo


def _source(image: Any) -> str | None:
    if isinstance(image, str | Path):
        return str(image)
    return getattr(image, "filename", None) or None


def _given(inputs: Inputs, module: nn.Module) -> PreparedBatch:
    """Inputs as given; signals and volumes are kept to draw on, channels first."""
    size = size_of(inputs, module)
    if not isinstance(inputs, Tensor) or size is None or len(size) == 2:
        return PreparedBatch(inputs)
    seen = inputs.detach().transpose(1, 2) if frames_first(inputs, module) else inputs.detach()
    return PreparedBatch(inputs, images=tuple(seen.float().cpu().numpy()))


def preparation(
    module: nn.Module, loaded: LoadedModel | None, preprocess: Any
) -> Callable[[Sequence[Any]], PreparedBatch]:
    """Return a function: photos -> one batch."""
    pipeline = resolve_preprocess(preprocess, module, loaded)

    def prepare(images: Sequence[Any]) -> PreparedBatch:
        arrays = [read_image(image) for image in images]
        pairs = [pipeline(array) for array in arrays]
        shapes = {tuple(tensor.shape) for tensor, _ in pairs}
        if len(shapes) > 1:
            raise ImageError(
                f"the preprocessing gives inputs of different shapes {sorted(shapes)}, which make "
                "no batch; resize or crop to one size, or use batch_size=1"
            )
        return PreparedBatch(
            torch.stack([tensor for tensor, _ in pairs]).to(device_of(module), dtype_of(module)),
            tuple(geometry for _, geometry in pairs),
            tuple(arrays),
            tuple(_source(image) for image in images),
        )

    return prepare


def preparing(
    given: Given | list[Any], module: nn.Module, loaded: LoadedModel | None, preprocess: Any
) -> Callable[[slice], PreparedBatch]:
    """Return a function: a slice of what `gather` returned -> one batch.

    Args:
        given: preprocessed inputs, or photos to prepare.
        module, loaded: as `resolve_model` returns them.
        preprocess: as in `explain`.
    """
    if isinstance(given, Given):
        return lambda p: _given(given.part(p.start, p.stop, device_of(module)), module)
    photos = preparation(module, loaded, preprocess)
    return lambda p: photos(given[p])
