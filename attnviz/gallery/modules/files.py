"""Where the trained weights lie: inside an installed package, or in a checkout's assets.

`notebooks/studies/train_modules.py` of the repository trains them: nothing is trained for a page.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file
from torch import nn

from ...errors import EnvironmentFault

Network = TypeVar("Network", bound=nn.Module)
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


def restored(name: str, build: Callable[[], Network], *, part: str = "") -> Network:
    """Return a network with its stored weights, in eval mode, float32, on the CPU.

    Args:
        name: of the file, without its ending: "stn", "cards/mae".
        build: makes the untrained network; the random state is left alone.
        part: the network is this part of what was trained, such as "encoder".

    Raises:
        EnvironmentFault: its weights are not installed.
    """
    path = find(f"{name}.safetensors")
    with torch.random.fork_rng(devices=[]):  # initial weights are drawn and then replaced
        network = build()
    prefix = f"{part}." if part else ""
    network.load_state_dict(
        {
            key.removeprefix(prefix): value.float() if value.is_floating_point() else value
            for key, value in load_file(path).items()
            if key.startswith(prefix)
        }
    )
    return network.eval()
