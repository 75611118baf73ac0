"""Ray Data: maps of data sets in object stores, on clusters."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..explaining import explain
from ..heatmaps import Heatmaps
from ..models import resolve_model


class Explainer:
    """An actor for `Dataset.map_batches`: adds the columns map, score, target and label.

    Args:
        model: as `explain` takes it; a name is loaded once an actor.
        column: of the images, (h, w, 3) uint8.
        **options: of `explain`: `method` (one), `target`, `layer`, `preprocess` ...

    Example:
        >>> data = ray.data.read_images("s3://bucket/photos")  # doctest: +SKIP
        >>> made = data.map_batches(  # doctest: +SKIP
        ...     Explainer, fn_constructor_args=("timm:resnet50",), concurrency=4, batch_size=32)
    """

    def __init__(self, model: Any, *, column: str = "image", **options: Any) -> None:
        module, loaded = resolve_model(model, options.pop("device", None))
        self.model = loaded or module
        self.column = column
        self.options = options

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Return the batch with a map (h, w) float32, score, target and label for each image."""
        maps: Heatmaps = explain(self.model, list(batch[self.column]), **self.options)
        return {
            **batch,
            "map": maps.values.detach().cpu().numpy(),
            "score": maps.score.detach().cpu().double().numpy(),
            "target": np.asarray(maps.target),
            "label": np.asarray(maps.label),
        }


__all__ = ["Explainer"]
