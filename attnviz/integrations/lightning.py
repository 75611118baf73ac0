"""Lightning: maps of fixed photos after each training epoch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from .fixed import FixedPhotos


class MapsCallback(Callback):
    """Writes `maps/epoch-0001.npz` and a PNG into the log's folder, and to TensorBoard if it logs.

    Args:
        photos: what `explain` takes.
        network: takes the network out of the `LightningModule` (`lambda module: module.net`);
            None explains the module itself by its `forward`.
        **options: of `explain`, see `attnviz.integrations.fixed.FixedPhotos`.

    Example:
        >>> maps = MapsCallback(["a.jpg"], preprocess="imagenet")  # doctest: +SKIP
        >>> Trainer(callbacks=[maps])  # doctest: +SKIP
    """

    def __init__(
        self,
        photos: Any,
        *,
        network: Callable[[LightningModule], nn.Module] | None = None,
        **options: Any,
    ) -> None:
        self.network = network
        self.fixed = FixedPhotos(photos, **options)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Explain the photos with the model as it is now; the main process alone does."""
        if not trainer.is_global_zero:
            return
        model = pl_module if self.network is None else self.network(pl_module)
        epoch = trainer.current_epoch + 1
        folder = Path(trainer.log_dir or trainer.default_root_dir) / "maps"
        drawn = np.asarray(self.fixed.write(model, folder, epoch).grid())
        for logger in trainer.loggers:
            experiment: Any = getattr(logger, "experiment", None)
            if hasattr(experiment, "add_image"):
                experiment.add_image("maps", drawn, epoch, dataformats="HWC")


__all__ = ["MapsCallback"]
