"""Pictures in TensorBoard's own files are those of the maps."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import attnviz
from tests.integrations.support import OPTIONS, PHOTO, Net

pytest.importorskip("tensorboard", reason="the extra 'tensorboard' brings it")


def test_pictures_of_each_step_are_read_back(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    from attnviz.integrations.tensorboard import MapsLog

    net, wanted = Net(), {}
    with SummaryWriter(str(tmp_path)) as writer:
        log = MapsLog(writer, [PHOTO], **OPTIONS)
        for step in (1, 2):
            log(net, step)
            target = log.fixed.options["target"]
            maps = attnviz.explain(net, [PHOTO], target=target, **OPTIONS)
            wanted[step] = np.asarray(maps.grid())
            net.body.weight.data.neg_()
    events = EventAccumulator(str(tmp_path), size_guidance={"images": 0}).Reload()
    found = events.Images("maps")
    assert [event.step for event in found] == [1, 2]
    for event in found:
        picture = np.asarray(Image.open(io.BytesIO(event.encoded_image_string)))
        assert np.array_equal(picture, wanted[event.step])
