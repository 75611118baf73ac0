"""The callback in a real Lightning `Trainer`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

import attnviz
from attnviz.heatmaps import Heatmaps
from tests.integrations.support import OPTIONS, PHOTO, Net, batches

pytest.importorskip("lightning", reason="the extra 'lightning' brings it")


@pytest.mark.filterwarnings("ignore")
def test_maps_of_each_epoch_are_the_models_own_and_training_is_as_without(tmp_path: Path) -> None:
    from lightning.pytorch import LightningModule, Trainer

    from attnviz.integrations.lightning import MapsCallback

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = Net()

        def training_step(self, batch, index):
            return F.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    def train(folder: Path, callbacks: list) -> Net:
        module = Module()
        Trainer(
            max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
            callbacks=callbacks,
        ).fit(module, DataLoader(batches(), batch_size=None))  # fmt: skip
        return module.net

    maps = MapsCallback([PHOTO], network=lambda module: module.net, **OPTIONS)
    watched, alone = train(tmp_path / "a", [maps]), train(tmp_path / "b", [])
    for one, other in zip(watched.parameters(), alone.parameters(), strict=True):
        assert torch.equal(one, other)
    first, last = (Heatmaps.load(tmp_path / "a" / "maps" / f"epoch-000{n}.npz") for n in (1, 2))
    assert first.target == last.target
    assert (tmp_path / "a" / "maps" / "epoch-0002.png").exists()
    own = attnviz.explain(watched, [PHOTO], target=list(first.target), **OPTIONS)
    torch.testing.assert_close(last.values, own.values)
