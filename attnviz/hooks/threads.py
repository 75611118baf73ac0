"""Hooks sit on a module that other threads may run, and that a model may copy while it runs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import nn


class _OwnHook:
    """A hook for one thread and one module: it does nothing elsewhere, nor in a copy of either."""

    def __init__(self, hook: Callable[..., Any]) -> None:
        self._hook = hook
        self._thread = threading.get_ident()

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self._hook(*args, **options) if threading.get_ident() == self._thread else None

    def __deepcopy__(self, memo: dict[int, Any]) -> Callable[..., None]:
        return _nothing

    def __reduce__(self) -> Any:
        return _make_nothing, ()


def _nothing(*args: Any) -> None:
    """Do what a hook in a copied module does."""


def _make_nothing() -> Callable[..., None]:
    return _nothing


def own_thread(hook: Callable[..., Any]) -> Callable[..., Any]:
    """Return a hook that acts in the thread that made it, and does nothing in the others.

    A module that is copied while it carries the hook (models that deep-copy their network when
    called) has a copy in which the hook does nothing, then and later.
    """
    return _OwnHook(hook)


def takes_hooks(module: nn.Module) -> bool:
    """Say whether a module takes hooks: scripted ones that run outside of Python take none."""
    if not isinstance(module, torch.jit.ScriptModule):
        return True
    try:
        module.register_forward_hook(own_thread(lambda *_: None)).remove()
    except RuntimeError:
        return False
    return True
