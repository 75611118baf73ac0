"""Writing results: whole or not at all, and never over what is there unless asked to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import DataError, OutputExists

VECTOR_FORMATS = ("pdf", "svg")


def refuse_existing(paths: Sequence[Path]) -> None:
    """Raise `OutputExists` if any of the files is there, before any work is done."""
    taken = [p for p in paths if p.exists()]
    if taken:
        what = f"{str(taken[0])!r} exists already"
        if len(paths) > 1:
            what = f"{len(taken)} of {len(paths)} output files exist already: {str(taken[0])!r}"
            what += " ..." if len(taken) > 1 else ""
        raise OutputExists(f"{what}; pass --force to overwrite, or another --out")


def file_bytes(picture: Any, suffix: str) -> bytes:
    """Encode a picture, or a figure for .pdf and .svg, as a file of that ending holds it."""
    if suffix.lstrip(".").lower() in VECTOR_FORMATS:
        from ..render.vector import encoded

        return encoded(picture, suffix)
    from ..images import picture_bytes

    return picture_bytes(picture, suffix)


def write_file(path: Path, data: bytes | str, *, force: bool = False) -> None:
    """Write a file whole or not at all: no error, full disk or Ctrl-C leaves half of it.

    Raises:
        OutputExists: the file is there already and `force` is off.
        DataError: it cannot be written.
    """
    from ..writing import write_files

    try:
        write_files({path: data}, force=force)
    except OutputExists:
        raise
    except OSError as error:
        raise DataError(
            f"cannot write {str(path)!r}: {error.strerror or error}; write it elsewhere"
        ) from error
