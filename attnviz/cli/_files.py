"""Writing results: whole or not at all, and never over what is there unless asked to."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import DataError, OutputExists

PICTURE_FORMATS = ("jpg", "png", "webp")


def refuse_existing(paths: Sequence[Path]) -> None:
    """Raise `OutputExists` if any of the files is there, before any work is done."""
    taken = [p for p in paths if p.exists()]
    if taken:
        what = f"{str(taken[0])!r} exists already"
        if len(paths) > 1:
            what = f"{len(taken)} of {len(paths)} output files exist already: {str(taken[0])!r}"
            what += " ..." if len(taken) > 1 else ""
        raise OutputExists(f"{what}; pass --force to overwrite, or another --out")


def picture_bytes(picture: Any, suffix: str) -> bytes:
    """Encode a PIL image as a file of that ending would hold it."""
    options: dict[str, Any] = {
        ".jpg": {"format": "JPEG", "quality": 92, "subsampling": 0},
        ".jpeg": {"format": "JPEG", "quality": 92, "subsampling": 0},
        ".png": {"format": "PNG", "compress_level": 4},
        ".webp": {"format": "WEBP", "quality": 90},
    }[suffix.lower()]
    buffer = io.BytesIO()
    picture.save(buffer, **options)
    return buffer.getvalue()


def write_file(path: Path, data: bytes, *, force: bool = False) -> None:
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
            f"cannot write {str(path)!r}: {error.strerror or error}; choose another --out"
        ) from error
