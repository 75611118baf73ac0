"""Weights & Biases: maps of fixed photos beside the curves."""

from __future__ import annotations

from typing import Any

import numpy as np

from .fixed import FixedPhotos


class MapsLog:
    """Adds a picture of photos and maps to a run of Weights & Biases, offline runs too.

    Args:
        run: what `wandb.init` returns.
        photos: what `explain` takes.
        tag: the picture's name.
        **options: of `explain`, see `attnviz.integrations.fixed.FixedPhotos`.

    Example:
        >>> log = MapsLog(wandb.init(), ["a.jpg"], preprocess="imagenet")  # doctest: +SKIP
        >>> log(model, epoch)  # doctest: +SKIP
    """

    def __init__(self, run: Any, photos: Any, *, tag: str = "maps", **options: Any) -> None:
        self.run = run
        self.tag = tag
        self.fixed = FixedPhotos(photos, **options)

    def __call__(self, model: Any, step: int | None = None) -> None:
        """Explain the photos with the model as it is now; no step: that of the run's next line."""
        import wandb

        drawn = np.asarray(self.fixed.maps(model).grid())
        self.run.log({self.tag: wandb.Image(drawn)}, step=step)


__all__ = ["MapsLog"]
