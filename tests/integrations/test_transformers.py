"""The callback in a real `Trainer`: its maps are those of the model at that time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import attnviz
from attnviz.heatmaps import Heatmaps
from tests.integrations import support

pytest.importorskip("transformers", reason="the extra 'hf' brings transformers")
pytest.importorskip("accelerate", reason="the Trainer needs accelerate")


class Net(support.Net):
    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None) -> dict:
        logits = super().forward(pixel_values)
        if labels is None:
            return {"logits": logits}
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def train(folder: Path, callbacks: list) -> Net:
    from transformers import Trainer, TrainingArguments

    random = torch.Generator().manual_seed(1)
    data = [
        {"pixel_values": torch.randn(3, 16, 16, generator=random), "labels": i % 3}
        for i in range(6)
    ]
    args = TrainingArguments(
        str(folder), num_train_epochs=2, per_device_train_batch_size=3, learning_rate=0.1,
        report_to=[], save_strategy="no", use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    net = Net()
    Trainer(net, args, train_dataset=data, callbacks=callbacks).train()
    return net


def test_maps_of_each_epoch_are_the_models_own_and_training_is_as_without(tmp_path: Path) -> None:
    from attnviz.integrations.transformers import MapsCallback

    photo = np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)
    options = {"layer": "body", "preprocess": "imagenet"}
    watched = train(tmp_path / "a", [MapsCallback([photo], **options)])
    alone = train(tmp_path / "b", [])
    for one, other in zip(watched.parameters(), alone.parameters(), strict=True):
        assert torch.equal(one, other)
    names = sorted(p.name for p in (tmp_path / "a" / "maps").iterdir())
    wanted = [f"epoch-000{n}.{end}" for n in (1, 2) for end in ("json", "npz", "png")]
    assert names == wanted
    first, last = (Heatmaps.load(tmp_path / "a" / "maps" / f"epoch-000{n}.npz") for n in (1, 2))
    assert first.target == last.target
    own = attnviz.explain(watched, [photo], target=list(first.target), **options)
    torch.testing.assert_close(last.values, own.values)
