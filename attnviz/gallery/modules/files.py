"""Where the trained weights lie: inside an installed package, or in a checkout's assets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ...errors import EnvironmentFault

HERE = Path(__file__).resolve().parent


def folder() -> Path:
    """The folder of weights, digits and manifest.

    The wheel carries them as `attnviz/gallery/modules/weights`; a checkout keeps them in
    `assets/reference`.

    Raises:
        EnvironmentFault: neither folder has a manifest.
    """
    places = (HERE / "weights", HERE.parents[2] / "assets" / "reference")
    for place in places:
        if (place / "manifest.json").is_file() or (place / "digits.safetensors").is_file():
            return place
    raise EnvironmentFault(
        "the reference weights are missing; looked in "
        + " and ".join(str(p) for p in places)
        + "; reinstall attnviz, or train them: python notebooks/studies/train_modules.py all"
    )


def find(name: str) -> Path:
    """Path of one file in the folder; a missing one raises EnvironmentFault."""
    path = folder() / name
    if not path.is_file():
        raise EnvironmentFault(
            f"{path} is missing; reinstall attnviz, or train it: "
            f"python notebooks/studies/train_modules.py {path.stem}"
        )
    return path


def manifest() -> dict[str, Any]:
    """What was trained: per name the task, the numbers measured, seed, versions and command."""
    return json.loads(find("manifest.json").read_text(encoding="utf-8"))
