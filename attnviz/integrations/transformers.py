"""Hugging Face `Trainer`: maps of fixed photos after each epoch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from .fixed import FixedPhotos


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
        self.fixed = FixedPhotos(photos, **options)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Explain the photos with the model as it is now; the main process alone does."""
        if state.is_world_process_zero:
            folder = Path(args.output_dir) / "maps"
            self.fixed.write(given["model"], folder, round(state.epoch))


__all__ = ["MapsCallback"]
