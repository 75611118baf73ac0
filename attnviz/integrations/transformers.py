"""Hugging Face `Trainer`: maps of fixed photos after each epoch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from ..explaining import explain
from ..heatmaps import Heatmaps
from ..images import picture_bytes
from ..writing import write_file


class MapsCallback(TrainerCallback):
    """Writes `maps/epoch-0001.npz`, and a PNG of them, into the trainer's output folder.

    The classes are those predicted at the first epoch's end unless `target` says others, so that
    all epochs show the same. The model, its gradients and the random state stay as they are.

    Args:
        photos: what `explain` takes.
        **options: of `explain`: `target`, `layer`, `preprocess` ...; one method.

    Example:
        >>> maps = MapsCallback(["a.jpg"], preprocess=processor)  # doctest: +SKIP
        >>> Trainer(model, args, callbacks=[maps])  # doctest: +SKIP
    """

    def __init__(self, photos: Any, **options: Any) -> None:
        self.photos = photos
        self.options = options

    def on_epoch_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Explain the photos with the model as it is now; the main process alone does."""
        if not state.is_world_process_zero:
            return
        with torch.enable_grad():
            maps: Heatmaps = explain(given["model"], self.photos, **self.options)
        if self.options.get("target") is None and self.options.get("classes") is None:
            self.options["target"] = list(maps.target)
        goal = Path(args.output_dir) / "maps" / f"epoch-{round(state.epoch):04d}.npz"
        maps.save(goal, force=True)
        if maps.images is not None:
            write_file(goal.with_suffix(".png"), picture_bytes(maps.grid(), ".png"), force=True)


__all__ = ["MapsCallback"]
