"""Maps of fixed photos, before training and after each epoch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..images import picture_bytes
from .config import GuideConfig


class Snapshots:
    """Keeps `maps/epoch-NNNN.npz` (raw values) and, where the photos are known, a PNG of them.

    Args:
        folder: of the run; None keeps nothing.
        photos: what `explain` takes; None keeps nothing.
        targets: what is explained; None fixes the classes predicted before training, so that
            the pictures of all epochs show the same.
        preprocess: as in `explain`.
        config: layer and method.
        labels: class names.
    """

    def __init__(
        self,
        folder: Path | None,
        photos: Any,
        targets: Any,
        preprocess: Any,
        config: GuideConfig,
        labels: Sequence[str] | None = None,
    ) -> None:
        self.folder = folder
        self.photos = photos if folder is not None else None
        self.targets = targets
        self.preprocess = preprocess
        self.labels = None if labels is None else tuple(labels)
        self.layer = config.layer[0] if isinstance(config.layer, list | tuple) else config.layer
        self.method = config.method

    def take(self, model: nn.Module, epoch: int) -> None:
        """Explain the photos and write the maps; the model is left as it was."""
        if self.photos is None or self.folder is None:
            return
        from ..explaining import explain
        from .checkpoints import disk_faults, write_whole

        folder = self.folder / "maps"
        if self.targets is None:
            self.targets = self._first_targets(folder)
        with torch.enable_grad():
            maps = explain(
                model, self.photos, target=self.targets, method=self.method, layer=self.layer,
                preprocess=self.preprocess, labels=self.labels,
            )  # fmt: skip
        if self.targets is None:
            self.targets = list(maps.target)
        goal = folder / f"epoch-{epoch:04d}.npz"
        with disk_faults(goal):
            maps.save(goal, force=True)
        if maps.images is not None:
            data = picture_bytes(maps.grid(), ".png")
            write_whole(folder / f"epoch-{epoch:04d}.png", lambda p: p.write_bytes(data))

    def there(self, epoch: int) -> bool:
        """Return whether nothing of an epoch is missing: its maps, or photos to take them of."""
        if self.photos is None or self.folder is None:
            return True
        return (self.folder / f"maps/epoch-{epoch:04d}.npz").exists()

    def _first_targets(self, folder: Path) -> list[Any] | None:
        first = folder / "epoch-0000.npz"
        if not first.exists():
            return None
        from ..heatmaps import Heatmaps

        return list(Heatmaps.load(first).target)
