"""Stored weights of the cards' small networks: nothing is trained for a page.

`notebooks/studies/train_modules.py` of the repository trains them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from safetensors.torch import load_file
from torch import nn

from .modules.files import find

Network = TypeVar("Network", bound=nn.Module)


def restored(name: str, build: Callable[[], Network], *, part: str = "") -> Network:
    """Return a card's network with its stored weights, in eval mode.

    Args:
        name: of the card.
        build: makes the untrained network; the random state is left alone.
        part: the network is this part of what was trained, such as "encoder".

    Raises:
        EnvironmentFault: its weights are not installed.
    """
    path = find(f"cards/{name}.safetensors")
    with torch.random.fork_rng(devices=[]):
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
