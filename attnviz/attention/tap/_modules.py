"""Which module is running, read from the call stack.

Module hooks would answer too, but per-module hooks make `nn.TransformerEncoderLayer` leave its
fused path, and global hooks are seen by every thread of the process. The interpreter already
knows: each running module has one frame of `nn.Module._call_impl`, so nothing is registered.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from types import FrameType
from typing import Any

from torch import Tensor, nn

_CALL = nn.Module._call_impl.__code__


@dataclass(frozen=True)
class Running:
    """One module of the tapped model that is running, with the arguments it was called with."""

    name: str
    module: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    frame: FrameType

    @functools.cached_property
    def tensors(self) -> list[tuple[str, Tensor]]:
        """The tensors among the arguments, with their names ("" if positional)."""
        found = [("", a) for a in self.args if isinstance(a, Tensor)]
        found += [(k, v) for k, v in self.kwargs.items() if isinstance(v, Tensor)]
        return found


def module_names(model: nn.Module | None) -> dict[int, str]:
    """Return id(module) -> dotted name; wrappers (compiled, data parallel) leave no trace."""
    if model is None:
        return {}
    names: dict[int, str] = {}
    # by hand: named_modules() takes as long as a small model
    stack = [("", model)]
    while stack:
        prefix, module = stack.pop()
        if id(module) in names:
            continue
        names[id(module)] = prefix
        for child, part in reversed(module._modules.items()):
            if part is None:
                continue
            skipped = _is_wrapper(module, child)
            stack.append((prefix if skipped else f"{prefix}.{child}" if prefix else child, part))
    return names


def _is_wrapper(module: nn.Module, child: str) -> bool:
    """Say whether a module only wraps another one under the name `child`."""
    return child == "_orig_mod" or (
        child == "module" and type(module).__name__ in ("DataParallel", "DistributedDataParallel")
    )


def running(names: Mapping[int, str] | None) -> list[Running]:
    """Return the modules that are running in this thread, innermost first.

    Args:
        names: id(module) -> name of the modules of interest; None means every module, named
            after its class.
    """
    found: list[Running] = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code is _CALL:
            variables = frame.f_locals
            module = variables["self"]
            name = type(module).__name__ if names is None else names.get(id(module))
            # a wrapper (compiled, data parallel) has the name of what it wraps
            if name is not None and not (found and found[-1].name == name):
                args, kwargs = variables.get("args", ()), variables.get("kwargs", {})
                found.append(Running(name, module, args, kwargs, frame))
        frame = frame.f_back
    return found
