"""What lies beside the weights in many checkpoints and is data: arguments, paths, numbers.

torch's restricted reader refuses these classes. They are replaced, by name, with stand-ins that
hold what was stored and can do nothing; no class or function that a file names is run.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import PurePosixPath, PureWindowsPath
from types import SimpleNamespace
from typing import Any


class _NumberType:
    """In place of numpy's dtype: its name."""

    def __init__(self, name: str = "", *_: Any) -> None:
        self.name = name

    def __setstate__(self, state: Any) -> None:
        pass


def _number(kind: _NumberType, data: bytes = b"") -> float | None:
    """In place of numpy's scalar: the number, None where it is no number."""
    import numpy as np

    if not isinstance(data, bytes) or kind.name.lstrip("<>=|")[:1] not in tuple("biuf"):
        return None
    values = np.frombuffer(data, kind.name)
    return values[0].item() if len(values) == 1 else None


def _latin(text: str, *_: Any) -> bytes:
    """In place of the codec that old pickles write bytes with."""
    return text.encode("latin1")


def plain_data() -> list[Callable[..., Any] | tuple[Callable[..., Any], str]]:
    """Return what `torch.serialization.safe_globals` takes: a stand-in and the name it answers."""
    posix = [f"pathlib{home}.{kind}PosixPath" for home in ("", "._local") for kind in ("", "Pure")]
    windows = [name.replace("Posix", "Windows") for name in posix]
    cores = ("numpy.core", "numpy._core")
    return [
        (argparse.Namespace, "argparse.Namespace"),
        (SimpleNamespace, "types.SimpleNamespace"),
        *((PurePosixPath, name) for name in posix),
        *((PureWindowsPath, name) for name in windows),
        *((_number, f"{core}.multiarray.scalar") for core in cores),
        (_NumberType, "numpy.dtype"),
        (_latin, "_codecs.encode"),
    ]
