"""Ctrl-C that is not lost, though libraries in C turn it into errors, and leaves no lock held."""

from __future__ import annotations

import _thread
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import typer

_heard = False
#: an exception in these would leave a lock held for ever, and threads waiting for it
_GUARDED = ("__enter__", "__exit__", "acquire", "release")


@contextmanager
def listening() -> Iterator[None]:
    """Remember a Ctrl-C; where somebody else answers it, or in another thread, do nothing."""
    global _heard
    _heard = False
    own = threading.current_thread() is threading.main_thread()
    if not own or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    said = sys.unraisablehook

    def unraisable(error: Any) -> None:
        if not issubclass(error.exc_type, KeyboardInterrupt):  # that one is raised at the next step
            said(error)

    signal.signal(signal.SIGINT, _hear)
    sys.unraisablehook = unraisable
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.unraisablehook = said


def _hear(_number: int, frame: FrameType | None) -> None:
    global _heard
    _heard = True
    if frame is not None and frame.f_code.co_name in _GUARDED:
        _thread.start_new_thread(_once_more, ())  # `threading` itself may be what was interrupted
        return
    raise KeyboardInterrupt


def _once_more() -> None:
    time.sleep(0.01)
    if signal.getsignal(signal.SIGINT) is _hear:  # the command still runs
        signal.raise_signal(signal.SIGINT)


def stop_if_asked() -> None:
    """Raise KeyboardInterrupt again if there was one, and what ran went on all the same."""
    if _heard:
        raise KeyboardInterrupt


def asked_to_stop(error: BaseException) -> bool:
    """Return whether an error is a Ctrl-C, or what somebody made of one."""
    if isinstance(error, typer.Exit):
        return False
    return isinstance(error, KeyboardInterrupt) or (_heard and isinstance(error, Exception))
