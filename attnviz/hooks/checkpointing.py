"""Gradient checkpointing off: what is recomputed in the backward pass would meet no hooks."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

#: the flags by which timm and Hugging Face turn it on
_FLAGS = ("grad_checkpointing", "gradient_checkpointing")

_lock = threading.Lock()
_open: dict[tuple[int, str], list] = {}  # (module, flag) -> [blocks that hold it, module]


@contextmanager
def without_checkpointing(model: nn.Module) -> Iterator[None]:
    """Run a model without gradient checkpointing inside the block, as timm and Hugging Face do it.

    Activations are then kept instead of computed again, so results are the same, and gradients of
    gradients work. The flags are put back when the last thread leaves.
    """
    with _lock:
        found = [
            (module, flag)
            for module in model.modules()
            for flag in _FLAGS
            if module.__dict__.get(flag) is True or (id(module), flag) in _open
        ]
        for module, flag in found:
            _open.setdefault((id(module), flag), [0, module])[0] += 1
            module.__dict__[flag] = False
    try:
        yield
    finally:
        with _lock:
            for module, flag in found:
                held = _open[id(module), flag]
                held[0] -= 1
                if held[0] == 0:
                    del _open[id(module), flag]
                    module.__dict__[flag] = True
