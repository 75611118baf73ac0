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
from torch.nn.modules.batchnorm import _NormBase


@dataclass
class _Held:
    count: int
    module: nn.Module
    training: bool
    buffers: dict[str, Tensor]
    values: dict[str, Tensor]  # of a scripted part, whose buffers are held outside Python


_lock = threading.RLock()
_held: dict[int, _Held] = {}
_random: list = [0, None]  # how many blocks are open, the state before the first


def _enter(modules: list[nn.Module], eval_mode: bool) -> None:
    copies: dict[int, Tensor] = {}  # a buffer that two modules share stays shared
    for module in modules:
        held = _held.get(id(module))
        if held is not None:
            held.count += 1
            continue
        originals: dict[str, Tensor] = {}
        if not _keeps_still(module, eval_mode):
            originals = {name: b for name, b in module._buffers.items() if b is not None}
        values: dict[str, Tensor] = {}
        if isinstance(module, torch.jit.ScriptModule) and module.training and not eval_mode:
            values = {n: b.detach().clone() for n, b in module.named_buffers(recurse=False)}
        _held[id(module)] = _Held(1, module, module.training, originals, values)
        # The model works on copies and the originals are not touched. Writing old values back
        # instead would invalidate every graph that has saved the buffer.
        for name, buffer in originals.items():
            if id(buffer) not in copies:
                copies[id(buffer)] = buffer.detach().clone()
            module._buffers[name] = copies[id(buffer)]


def _keeps_still(module: nn.Module, eval_mode: bool) -> bool:
    """Say whether a module has no buffer that a forward pass writes to and that can be swapped."""
    if isinstance(module, _NormBase):
        return eval_mode or not module.training  # most buffers of most models: not copied in vain
    # a scripted or traced part holds its buffers outside Python
    return isinstance(module, torch.jit.ScriptModule) or not module._buffers


def _leave(modules: list[nn.Module]) -> None:
    error: BaseException | None = None
    for module in modules:
        held = _held.get(id(module))
        if held is None:  # entering had failed before it
            continue
        held.count -= 1
        if held.count:
            continue
        del _held[id(module)]
        try:
            _set_mode(module, held.training)
            if held.buffers:
                module._buffers.update(held.buffers)
            for name, value in held.values.items():
                with torch.no_grad():
                    getattr(module, name).copy_(value)
        except Exception as failed:  # the other modules are put back all the same
            error = error or failed
    if error is not None:
        raise error


def _set_mode(module: nn.Module, training: bool) -> None:
    if module.training == training:
        return
    # assigned, not called: an overridden train() may do more than set the flag
    module.training = training


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
        _random[0] += 1
        if _random[0] == 1:
            _random[1] = _random_state()
        try:
            _enter(modules, eval_mode)
            if eval_mode:
                for module in modules:
                    _set_mode(module, False)
        except BaseException:
            _close(modules)
            raise
    try:
        yield
    finally:
        with _lock:
            _close(modules)


def _close(modules: list[nn.Module]) -> None:
    try:
        _leave(modules)
    finally:
        _random[0] -= 1
        if _random[0] == 0:
            _set_random_state(_random[1])
            _random[1] = None
