"""supervision: regions of maps as `Detections`, for its annotators, trackers and exports."""

from __future__ import annotations

from typing import Any

import numpy as np
import supervision as sv

from ..heatmaps import Heatmaps


def detections(maps: Heatmaps, threshold: float = 0.5, **options: Any) -> list[sv.Detections]:
    """Return for each map the boxes round what lies at or above a threshold, as `Detections`.

    Args:
        maps: any.
        threshold, **options: of `Heatmaps.boxes`: `mode`, `which`.

    Returns:
        One `Detections` a map: `xyxy` in pixels of the photo, `confidence` the class's probability
        (None where there is none), `class_id` of a class index, and `data["class_name"]`.
    """
    found = []
    for row, boxes in enumerate(maps.boxes(threshold, **options)):
        count, known = len(boxes), maps.probability
        index = maps.target[row]
        found.append(
            sv.Detections(
                xyxy=boxes.astype(np.float32).reshape(count, 4),
                confidence=None if known is None else np.full(count, float(known[row]), np.float32),
                class_id=np.full(count, index, int) if isinstance(index, int) else None,
                data={"class_name": np.full(count, maps.label[row])},
            )
        )
    return found


__all__ = ["detections"]
