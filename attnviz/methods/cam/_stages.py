"""The stages of a network: its last layer of every resolution, for maps fused over layers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ...geometry import size_of
from ...hooks.outputs import split
from ...hooks.threads import own_thread
from ...models import default_layer
from .. import Request


def stages(request: Request) -> list[str]:
    """Return the layers asked for, or the default one and those beside it of finer resolution.

    Of the modules that stand beside the default layer in its parent and run before it, the last
    of every size of output is taken, coarse to fine.
    """
    if request.layers:
        return list(request.layers)
    name = default_layer(request.model, request.example)
    parent, _, last = split(name)[0].rpartition(".")
    beside = dict(request.model.get_submodule(parent).named_children())
    sizes: dict[str, tuple[int, ...]] = {}

    def note(child: str):
        @own_thread
        def hook(module, inputs, output) -> None:
            if isinstance(output, Tensor) and output.ndim == 4 and last not in sizes:
                sizes[child] = size_of(output)

        return hook

    handles = [module.register_forward_hook(note(child)) for child, module in beside.items()]
    try:
        with torch.no_grad():
            request.forward()
    finally:
        for handle in handles:
            handle.remove()
    found: dict[tuple[int, ...], str] = {}
    for child, size in sizes.items():  # in the order in which they ran
        found[size] = child
    names = [f"{parent}.{child}" if parent else child for child in found.values()]
    # the input's own resolution says nothing of the class
    kept = [n for n, size in zip(names, found, strict=True) if size != request.input_size]
    return list(reversed(kept)) if name in kept else [name]


def at_finest(maps: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return maps (B, h, w) of several layers at the size of the finest, bilinearly."""
    size = max((size_of(m) for m in maps.values()), key=lambda s: s[0] * s[1])
    return {
        name: F.interpolate(m[:, None], size, mode="bilinear", align_corners=False)[:, 0]
        for name, m in maps.items()
    }


def to_one(maps: Tensor) -> Tensor:
    """Return maps (B, h, w), not negative, divided by their maximum; empty ones stay empty."""
    most = maps.amax((-2, -1), keepdim=True)
    return maps / torch.where(most > 0, most, 1.0)
