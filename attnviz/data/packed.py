"""Images that are no file of their own: members of a tar shard, rows of a table."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from .. import limits


@runtime_checkable
class PackedImage(Protocol):
    """Where an encoded image lies; its bytes are read when they are asked for."""

    def read_bytes(self) -> bytes:
        """Return the bytes of the image's file."""
        ...

    def where(self) -> tuple[Path, str]:
        """Return the file that holds it, and which of its images it is, as a text."""
        ...


@dataclass(frozen=True)
class FilePart:
    """Bytes in the middle of a file."""

    path: Path
    start: int
    length: int

    def read_bytes(self) -> bytes:
        """Return the bytes; an `OSError` where the file is gone."""
        limits.check("bytes", self.length, f"{self.path} at {self.start}")
        with self.path.open("rb") as file:
            file.seek(self.start)
            return file.read(self.length)

    def where(self) -> tuple[Path, str]:
        """Return the file and the place in it."""
        return self.path, f"bytes {self.start} to {self.start + self.length}"


__all__ = ["FilePart", "PackedImage"]
