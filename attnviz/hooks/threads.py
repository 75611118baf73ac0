"""Hooks sit on a module that other threads may run, too."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import wraps
from typing import Any


def own_thread(hook: Callable[..., Any]) -> Callable[..., Any]:
    """Return a hook that acts in the thread that made it, and does nothing in the others."""
    thread = threading.get_ident()

    @wraps(hook)
    def only_here(*args: Any, **options: Any) -> Any:
        return hook(*args, **options) if threading.get_ident() == thread else None

    return only_here
