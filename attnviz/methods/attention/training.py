"""Maps of attention as a part of the training graph."""

from __future__ import annotations

import torch
from torch import Tensor

from ...hooks import wide
from ...registry import Entry
from .. import Request
from ..forward import ForwardPass
from ._run import run_on
from .reading import read


def attention_maps(request: Request, entry: Entry) -> tuple[ForwardPass, dict[str, Tensor]]:
    """Return one forward pass and a method's maps {layer: (B, h, w)}, both with their graph.

    Args:
        request: with `create_graph`, and one target for each image.
        entry: a map of attention that is read from a pass shared with others.

    Raises:
        AttentionUnavailable: no attention among patches was found.
    """
    gradients = bool(entry.meta["needs_gradient"])
    reading = read(
        request, gradients=gradients, keep=entry.meta["keep"],
        tokens=bool(entry.meta["needs_tokens"]),
    )  # fmt: skip
    device = reading.scores[0].device.type
    with torch.autocast(device, enabled=False):
        maps = {name: wide(maps[0]) for name, _, maps in run_on(reading, entry, request, {})}
    return reading.done, maps
