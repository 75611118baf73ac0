"""Put a model back exactly as it was: modes, buffers, random state.

Counted per module and per buffer under a lock, so that several threads may hold one model (or a
model and a part of it) at once: the first one in writes down the state, the last one out restores
it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from .modules import named_parts


@dataclass(slots=True)
class _Held:
    count: int
    training: bool
    buffers: Mapping[str, Tensor] | None = None
    values: Mapping[str, Tensor] | None = (
        None  # of a scripted part: its buffers are held outside Python
    )


_lock = threading.RLock()
_held: dict[nn.Module, _Held] = {}
#: id(model) -> [open blocks, its modules]: the first block walks through the model
_open: dict[int, list] = {}
_random: list = [0, None]  # how many blocks are open, the state before the first


def _enter(modules: list[nn.Module], eval_mode: bool) -> None:
    copies: dict[int, Tensor] = {}  # a buffer that two modules share stays shared
    for module in modules:
        held = _held.get(module)
        if held is not None:
            held.count += 1
            continue
        held = _held[module] = _Held(1, module.training)
        if not module._buffers:  # most of them
            continue
        originals: dict[str, Tensor] = {}
        if not _keeps_still(module, eval_mode):
            originals = {name: b for name, b in module._buffers.items() if b is not None}
        if isinstance(module, torch.jit.ScriptModule) and module.training and not eval_mode:
            held.values = {n: b.detach().clone() for n, b in module.named_buffers(recurse=False)}
        held.buffers = originals
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
    return isinstance(module, torch.jit.ScriptModule)


def _leave(modules: list[nn.Module]) -> None:
    error: BaseException | None = None
    for module in modules:
        held = _held.get(module)
        if held is None:  # entering had failed before it
            continue
        held.count -= 1
        if held.count:
            continue
        del _held[module]
        try:
            if module.training != held.training:
                # assigned, not called: an overridden train() may do more than set the flag
                module.training = held.training
            if held.buffers:
                module._buffers.update(held.buffers)
            for name, value in (held.values or {}).items():
                with torch.no_grad():
                    getattr(module, name).copy_(value)
        except Exception as failed:  # the other modules are put back all the same
            error = error or failed
    if error is not None:
        raise error


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
    with _lock:
        _begin(model, eval_mode)
    try:
        yield
    finally:
        with _lock:
            _end(model)


def _begin(model: nn.Module, eval_mode: bool) -> None:
    _random[0] += 1
    if _random[0] == 1:
        _random[1] = _random_state()
    first = id(model) not in _open
    if first:
        _open[id(model)] = [0, list(named_parts(model))]
    opened = _open[id(model)]
    opened[0] += 1
    try:
        if first:
            _enter(opened[1], eval_mode)
        if eval_mode:
            for module in opened[1]:
                if module.training:
                    module.training = False
    except BaseException:
        _end(model)
        raise


def _end(model: nn.Module) -> None:
    opened = _open[id(model)]
    opened[0] -= 1
    try:
        if opened[0] == 0:
            del _open[id(model)]
            _leave(opened[1])
    finally:
        _random[0] -= 1
        if _random[0] == 0:
            _set_random_state(_random[1])
            _random[1] = None
