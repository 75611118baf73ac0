"""TensorBoard: maps of fixed photos beside the curves."""

from __future__ import annotations

from typing import Any

import numpy as np

from .fixed import FixedPhotos


class MapsLog:
    """Adds a picture of photos and maps to a `SummaryWriter`, or to anything with `add_image`.

    Args:
        writer: has `add_image(tag, image, step, dataformats=)`.
        photos: what `explain` takes.
        tag: the picture's name.
        **options: of `explain`, see `attnviz.integrations.fixed.FixedPhotos`.

    Example:
        >>> log = MapsLog(SummaryWriter(), ["a.jpg"], preprocess="imagenet")  # doctest: +SKIP
        >>> log(model, epoch)  # doctest: +SKIP
    """

    def __init__(self, writer: Any, photos: Any, *, tag: str = "maps", **options: Any) -> None:
        self.writer = writer
        self.tag = tag
        self.fixed = FixedPhotos(photos, **options)

    def __call__(self, model: Any, step: int) -> None:
        """Explain the photos with the model as it is now."""
        drawn = np.asarray(self.fixed.maps(model).grid())
        self.writer.add_image(self.tag, drawn, step, dataformats="HWC")


__all__ = ["MapsLog"]
