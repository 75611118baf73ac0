"""Maps of the same photos, for the same classes, at every epoch: what all adapters share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..explaining import explain
from ..heatmaps import Heatmaps
from ..images import picture_bytes
from ..writing import write_file


class FixedPhotos:
    """Explains the photos with a model as it is at the moment.

    The classes are those predicted the first time unless `target` says others, so that all epochs
    show the same. The model, its gradients and the random state stay as they are.

    Args:
        photos: what `explain` takes.
        **options: of `explain`: `target`, `layer`, `preprocess` ...; one method.
    """

    def __init__(self, photos: Any, **options: Any) -> None:
        self.photos = photos
        self.options = options

    def maps(self, model: Any) -> Heatmaps:
        """Return the maps of a model."""
        with torch.inference_mode(False), torch.enable_grad():
            found: Heatmaps = explain(model, self.photos, **self.options)
        if self.options.get("target") is None and self.options.get("classes") is None:
            self.options["target"] = list(found.target)
        return found

    def write(self, model: Any, folder: str | Path, epoch: int) -> Heatmaps:
        """Write `epoch-0001.npz`, and a PNG of photos and maps, and return the maps."""
        found = self.maps(model)
        goal = Path(folder) / f"epoch-{epoch:04d}.npz"
        found.save(goal, force=True)
        if found.images is not None:
            write_file(goal.with_suffix(".png"), picture_bytes(found.grid(), ".png"), force=True)
        return found


__all__ = ["FixedPhotos"]
