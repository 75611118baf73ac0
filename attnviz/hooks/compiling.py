"""Compiled code beside hooks: `torch.compile` for those parts of a model that nothing is read from.

Compiled code ignores hooks that come after it, so a part is compiled only where neither it nor a
part of it carries a hook; around a hook the model runs as it is, its other children compiled.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from ..errors import CaptureError
from .modules import is_compiled, named_parts

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_CALL = "_compiled_call_impl"  # what `nn.Module.__call__` runs in place of the forward

#: compiled once for each module: torch itself checks at each call that what it compiled still holds
_made: WeakKeyDictionary[nn.Module, Callable[..., Any]] = WeakKeyDictionary()
_lock = threading.RLock()
_open: dict[int, int] = {}  # id(model) -> open blocks


class _Choosing:
    """Runs a module compiled, or, with a hook on a part of it, as it is with its children so."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._parts = list(named_parts(module))

    def __call__(self, *args: Any, **options: Any) -> Any:
        own = self._module
        if any(part.__dict__.get(name) for part in self._parts for name in _HOOKS) or _watched():
            for child in own.children():
                if child.__dict__.get(_CALL) is None:
                    child.__dict__[_CALL] = _Choosing(child)
            return own._call_impl(*args, **options)
        for part in self._parts[1:]:
            part.__dict__.pop(_CALL, None)
        try:
            return _compiled(own)(own, *args, **options)
        except RuntimeError as error:
            from torch._dynamo.exc import TorchDynamoException  # loads for seconds

            if not isinstance(error, TorchDynamoException):
                raise
            reason = str(error).strip().partition("\n")[0]
            raise CaptureError(
                f"torch.compile cannot compile {type(own).__name__} here: {reason}. Leave "
                "compile=True out; on a CPU it needs a C++ compiler (g++, clang or MSVC)",
                command=f"torch.compile cannot compile {type(own).__name__} here: {reason}. Leave "
                "--compile out; on a CPU it needs a C++ compiler (g++, clang or MSVC)",
            ) from error


def _watched() -> bool:
    """Say whether a mode watches what runs, which it would not see in compiled code."""
    return bool(torch._C._len_torch_function_stack() or torch._C._len_torch_dispatch_stack())


def _compiled(module: nn.Module) -> Callable[..., Any]:
    if module not in _made:

        def run(part: nn.Module, *args: Any, **options: Any) -> Any:
            return part._call_impl(*args, **options)

        # torch keeps a few compiled versions by code object: each module has one of its own
        run.__code__ = run.__code__.replace(co_name=f"run_{len(_made)}")
        _made[module] = torch.compile(run)
    return _made[module]


@contextmanager
def compiled(model: nn.Module) -> Iterator[None]:
    """Run the parts of a model that carry no hook compiled inside the block.

    Raises:
        CaptureError: parts of the model are compiled already; inside, what torch cannot compile.
    """
    with _lock:
        if id(model) not in _open:
            if is_compiled(model):
                raise CaptureError(
                    f"parts of {type(model).__name__} are compiled already; pass the model as it "
                    "was before, or leave compile=True out"
                )
            model.__dict__[_CALL] = _Choosing(model)
        _open[id(model)] = _open.get(id(model), 0) + 1
    try:
        yield
    finally:
        with _lock:
            _open[id(model)] -= 1
            if not _open[id(model)]:
                del _open[id(model)]
                for part in named_parts(model):
                    part.__dict__.pop(_CALL, None)
