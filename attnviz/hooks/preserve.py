"""Put a model back exactly as it was: modes, buffers, random state.

Counted per module and per buffer under a lock, so that several threads may hold one model (or a
model and a part of it) at once: the first one in writes down the state, the last one out restores
it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass
class _Held:
    count: int
    module: nn.Module
    training: bool
    buffers: dict[str, Tensor]


_lock = threading.RLock()
_held: dict[int, _Held] = {}
_random: list = [0, None]  # how many blocks are open, the state before the first


def _enter(modules: list[nn.Module]) -> None:
    copies: dict[int, Tensor] = {}  # a buffer that two modules share stays shared
    for module in modules:
        held = _held.get(id(module))
        if held is not None:
            held.count += 1
            continue
        originals = {name: b for name, b in module._buffers.items() if b is not None}
        _held[id(module)] = _Held(1, module, module.training, originals)
        # The model works on copies and the originals are not touched. Writing old values back
        # instead would invalidate every graph that has saved the buffer.
        for name, buffer in originals.items():
            if id(buffer) not in copies:
                copies[id(buffer)] = buffer.detach().clone()
            module._buffers[name] = copies[id(buffer)]


def _leave(modules: list[nn.Module]) -> None:
    for module in modules:
        held = _held[id(module)]
        held.count -= 1
        if held.count == 0:
            del _held[id(module)]
            # assigned, not called: an overridden train() may do more than set the flag
            module.training = held.training
            module._buffers.update(held.buffers)


def _random_state() -> dict[str, Tensor | list[Tensor]]:
    state: dict[str, Tensor | list[Tensor]] = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state_all()
    if torch.backends.mps.is_available():
        state["mps"] = torch.mps.get_rng_state()
    return state


def _set_random_state(state: dict) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state:
        torch.cuda.set_rng_state_all(state["cuda"])
    if "mps" in state:
        torch.mps.set_rng_state(state["mps"])


@contextmanager
def preserved(model: nn.Module, *, eval_mode: bool = True) -> Iterator[None]:
    """Run a model inside the block and leave no trace of it.

    On leaving, also by an exception, every submodule's `training` flag, every buffer (value and
    identity) and torch's random state are what they were on entering.

    Args:
        model: the model that will be called.
        eval_mode: switch all submodules to evaluation inside the block. Modes belong to the
            model, so other threads see it in evaluation too while the block is open.
    """
    modules = list(model.modules())
    with _lock:
        _enter(modules)
        _random[0] += 1
        if _random[0] == 1:
            _random[1] = _random_state()
        if eval_mode:
            for module in modules:
                if module.training:
                    module.training = False
    try:
        yield
    finally:
        with _lock:
            _leave(modules)
            _random[0] -= 1
            if _random[0] == 0:
                _set_random_state(_random[1])
                _random[1] = None
