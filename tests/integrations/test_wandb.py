"""Pictures in an offline run of Weights & Biases are those of the maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import attnviz
from tests.integrations.support import OPTIONS, PHOTO, Net

pytest.importorskip("wandb", reason="the extra 'wandb' brings it")


@pytest.mark.slow  # it starts a process of its own
def test_pictures_of_each_step_are_read_back(tmp_path: Path) -> None:
    import wandb

    from attnviz.integrations.wandb import MapsLog

    net, wanted = Net(), []
    with wandb.init(mode="offline", dir=str(tmp_path), settings={"silent": True}) as run:
        log = MapsLog(run, [PHOTO], **OPTIONS)
        for step in (1, 2):
            log(net, step)
            target = log.fixed.options["target"]
            maps = attnviz.explain(net, [PHOTO], target=target, **OPTIONS)
            wanted.append(np.asarray(maps.grid()))
            net.body.weight.data.neg_()
        folder = Path(run.dir) / "media" / "images"
    found = sorted(folder.glob("maps_*.png"), key=lambda path: int(path.name.split("_")[1]))
    assert not np.array_equal(wanted[0], wanted[1])
    for path, picture in zip(found, wanted, strict=True):
        assert np.array_equal(np.asarray(Image.open(path).convert("RGB")), picture)
