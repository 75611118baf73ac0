"""How far a method is, for whoever watches: `with watched(show): explain(...)`.

A method that runs the model hundreds of times counts its passes; the command line draws a bar of
them. Nobody watches by default.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar

#: called with what is done and how many steps it has; gives a function that takes steps done
Watcher = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]

_watcher: ContextVar[Watcher | None] = ContextVar("attnviz_watcher", default=None)


@contextmanager
def watched(watcher: Watcher) -> Iterator[None]:
    """Report the progress of what runs in the block (in this thread) to `watcher`."""
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)


def counting(what: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
    """Return a context of a function that takes how many more of `total` steps are done."""
    watcher = _watcher.get()
    return nullcontext(lambda steps: None) if watcher is None else watcher(what, total)
