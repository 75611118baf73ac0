"""Put a model back exactly as it was: modes, buffers, random state.

Counted per module and per buffer under a lock, so that several threads may hold one model (or a
model and a part of it) at once: the first one in writes down the state, the last one out restores
it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass
class _Buffer:
    module: nn.Module
    name: str
    tensor: Tensor
    copy: Tensor


@dataclass
class _Held:
    count: int
    module: nn.Module
    training: bool
    buffers: list[_Buffer]


_lock = threading.RLock()
_held: dict[int, _Held] = {}
_random: list = [0, None]  # how many blocks are open, the state before the first


def _alike(buffers: Iterable[_Buffer]) -> Iterator[list[_Buffer]]:
    groups: dict[tuple, list[_Buffer]] = {}
    for buffer in buffers:
        groups.setdefault((buffer.tensor.device, buffer.tensor.dtype), []).append(buffer)
    yield from groups.values()


def _flat(tensors: Iterable[Tensor]) -> Tensor:
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])


def _enter(modules: list[nn.Module]) -> None:
    fresh: list[_Buffer] = []
    for module in modules:
        held = _held.get(id(module))
        if held is not None:
            held.count += 1
            continue
        buffers = [
            _Buffer(module, name, tensor, tensor)
            for name, tensor in module._buffers.items()
            if tensor is not None
        ]
        _held[id(module)] = _Held(1, module, module.training, buffers)
        fresh += buffers
    # one copy for all buffers of a kind: a network has hundreds of tiny ones
    with torch.no_grad():
        for group in _alike(fresh):
            flat = _flat(buffer.tensor for buffer in group)
            parts = flat.split([buffer.tensor.numel() for buffer in group])
            for buffer, part in zip(group, parts, strict=True):
                buffer.copy = part.view(buffer.tensor.shape)


def _leave(modules: list[nn.Module]) -> None:
    stale: list[_Buffer] = []
    for module in modules:
        held = _held[id(module)]
        held.count -= 1
        if held.count == 0:
            del _held[id(module)]
            # assigned, not called: an overridden train() may do more than set the flag
            module.training = held.training
            stale += held.buffers
    for buffer in stale:
        if buffer.module._buffers.get(buffer.name) is not buffer.tensor:
            buffer.module._buffers[buffer.name] = buffer.tensor
    # compared before written: a write, even of equal values, would invalidate a graph of the
    # user's that has saved the buffer
    with torch.no_grad():
        for group in _alike(stale):
            if torch.equal(_flat(b.tensor for b in group), _flat(b.copy for b in group)):
                continue
            for buffer in group:
                _write_back(buffer)


def _write_back(buffer: _Buffer) -> None:
    if buffer.tensor.shape == buffer.copy.shape and torch.equal(buffer.tensor, buffer.copy):
        return
    with torch.inference_mode(buffer.tensor.is_inference()), torch.no_grad():
        if buffer.tensor.shape == buffer.copy.shape:
            buffer.tensor.copy_(buffer.copy)
        else:
            buffer.tensor.set_(buffer.copy)


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
