"""How many inputs a forward takes where the caller leaves it open."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from .inputs import Inputs

Made = TypeVar("Made")

#: at most, and what a GPU is given at first; a user may ask for more
MOST = 32
#: bytes above which the C library maps a block afresh and zeroes it at every allocation (glibc's
#: largest threshold): a layer's output below it stays in the process
_BLOCK = 32 << 20
#: how large a network's largest activations are, in inputs: 64 to 96 channels at half the sides
_GROWTH = 8


def chosen_batch(inputs: Inputs) -> int:
    """Return how many inputs like these make a batch: on a CPU few, whose layers fit a block.

    There 4 to 8 photos of 224 px are quicker than 32, half of whose time is page faults.

    Args:
        inputs: of a model, on its device; how many does not matter.
    """
    values = inputs.values() if isinstance(inputs, Mapping) else inputs
    found: list[Any] = [inputs] if isinstance(inputs, Tensor) else list(values)
    example = next((t for t in found if isinstance(t, Tensor) and t.ndim), None)
    if example is None:
        return 1
    if example.device.type != "cpu":
        return MOST
    bytes_each = example[:1].numel() * example.element_size()
    fitting = _BLOCK // max(1, _GROWTH * bytes_each)
    return max(1, min(MOST, 1 << (max(1, fitting).bit_length() - 1)))  # a power of two


def in_chosen_batches(
    run: Callable[[slice], Made], total: int, inputs: Inputs
) -> tuple[list[Made], int]:
    """Run parts of a whole in batches of a size chosen here; halved where memory runs out.

    Args:
        run: computes a part, given as a slice.
        total: how many there are.
        inputs: some of the inputs, to choose by.

    Returns:
        What `run` gave, part by part, and the size that the last batches had.
    """
    size = min(total, chosen_batch(inputs))
    made: list[Made] = []
    start = 0
    while start < total:
        part = slice(start, min(start + size, total))
        try:
            made.append(run(part))
        except (RuntimeError, MemoryError) as error:
            if part.stop - part.start == 1 or not out_of_memory(error):
                raise
            size = max(1, (part.stop - part.start) // 2)
            continue
        start = part.stop
    return made, size


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that a device, or the machine, has no memory left."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
