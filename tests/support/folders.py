"""Folders of photos that several tests read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def two_classes(folder: Path) -> Path:
    """Write two classes of 6 and 5 noisy photos, and a file that is none; returns the folder."""
    random = np.random.default_rng(0)
    for i in range(11):
        goal = folder / ("red" if i < 6 else "green") / f"{i:02d}.png"
        goal.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (40, 50, 3), np.uint8)).save(goal)
    (folder / "red" / "broken.png").write_bytes(b"not a picture")
    return folder
