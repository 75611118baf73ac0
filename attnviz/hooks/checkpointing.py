"""Gradient checkpointing off: what is recomputed in the backward pass would meet no hooks."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from .modules import named_parts

#: the flags by which timm and Hugging Face turn it on
_FLAGS = ("grad_checkpointing", "gradient_checkpointing")

_lock = threading.Lock()
_held: dict[tuple[int, str], list] = {}  # (module, flag) -> [models that hold it off, module]
_open: dict[int, list] = {}  # id(model) -> [open blocks, what they hold]: the first one looks


@contextmanager
def without_checkpointing(model: nn.Module) -> Iterator[None]:
    """Run a model without gradient checkpointing inside the block, as timm and Hugging Face do it.

    Activations are then kept instead of computed again, so results are the same, and gradients of
    gradients work. The flags are put back when the last thread leaves.
    """
    key = id(model)
    with _lock:
        if key not in _open:
            _open[key] = [0, _switch_off(model)]
        _open[key][0] += 1
    try:
        yield
    finally:
        with _lock:
            _open[key][0] -= 1
            if _open[key][0] == 0:
                for module, flag in _open.pop(key)[1]:
                    held = _held[id(module), flag]
                    held[0] -= 1
                    if held[0] == 0:
                        del _held[id(module), flag]
                        module.__dict__[flag] = True


def _switch_off(model: nn.Module) -> list[tuple[nn.Module, str]]:
    found = [
        (module, flag)
        for module in named_parts(model)
        for flag in _FLAGS
        if flag in module.__dict__  # in hardly any
        and (module.__dict__[flag] is True or (id(module), flag) in _held)
    ]
    for module, flag in found:
        _held.setdefault((id(module), flag), [0, module])[0] += 1
        module.__dict__[flag] = False
    return found
