"""Boxes of maps as supervision's `Detections`."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from attnviz.heatmaps import Heatmaps

pytest.importorskip("supervision", reason="the extra 'supervision' brings it")


def test_boxes_class_and_probability_are_the_maps_own() -> None:
    import supervision as sv

    from attnviz.integrations.supervision import detections

    values = torch.zeros(2, 6, 8)
    values[0, 1:3, 2:5] = 1
    values[0, 5, 7] = 1
    maps = Heatmaps(
        values=values, score=torch.zeros(2), method="gradcam", layer="", target=(3, 1),
        label=("boat", "sea"), probability=torch.tensor([0.75, 0.5]),
    )  # fmt: skip
    both, none = detections(maps, which="all")
    assert both.xyxy.tolist() == [[2, 1, 5, 3], [7, 5, 8, 6]]
    assert both.class_id.tolist() == [3, 3]
    assert both.confidence.tolist() == [0.75, 0.75]
    assert list(both.data["class_name"]) == ["boat", "boat"]
    assert len(none) == 0
    drawn = sv.BoxAnnotator().annotate(np.zeros((6, 8, 3), np.uint8), both)
    assert drawn.any()
