"""How much of a file that somebody else made is decoded: one table, for every reader.

A file can be small and open into something that fills the memory: a picture of one colour, a
compressed array, JSON nested a million deep. Each limit is checked before the memory is asked for,
and generous for honest data. Where yours is larger, raise it for a block of code,

    with attnviz.limits.raised(pixels=400_000_000):
        ...

or for a process, by the environment: `ATTNVIZ_LIMITS=pixels=400000000,json_depth=200`.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import zipfile
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import IO, Any

from .errors import AttnvizError, DataError, did_you_mean


@dataclass(frozen=True)
class Limits:
    """The table.

    Attributes:
        pixels: width x height of a photo, and of the size of one that a file states.
        scans: times that a progressive JPEG goes over its pixels.
        mask_pixels: width x height of a mask, whatever it is made of.
        bytes: of arrays after decompression (`Heatmaps.load`, checkpoints, bands of a TIFF).
        annotation_bytes: of a JSON, CSV or XML file with annotation.
        json_bytes: of a file with results, labels or settings.
        json_depth: lists and objects within one another.
        polygon_points: points of one polygon.
        polygon_crossings: rows of pixels that the edges of one polygon cross, in all.
        rows: lines of a CSV.
        line_characters: of one of them.
        xml_bytes: of one Pascal VOC file.
    """

    pixels: int = 200_000_000
    scans: int = 200
    mask_pixels: int = 100_000_000
    bytes: int = 2_000_000_000
    annotation_bytes: int = 2_000_000_000
    json_bytes: int = 500_000_000
    json_depth: int = 64
    polygon_points: int = 1_000_000
    polygon_crossings: int = 20_000_000
    rows: int = 20_000_000
    line_characters: int = 1_000_000
    xml_bytes: int = 4_000_000


_RAISED: ContextVar[Limits | None] = ContextVar("attnviz_limits", default=None)


def current() -> Limits:
    """Return the limits that hold here."""
    return _RAISED.get() or _from_environment(os.environ.get("ATTNVIZ_LIMITS", ""))


@contextlib.contextmanager
def raised(**limits: int) -> Iterator[Limits]:
    """Let other limits hold inside the block.

    Raises:
        DataError: there is no such limit, or it is no positive number.
    """
    token = _RAISED.set(_with(current(), limits, "limits.raised"))
    try:
        yield current()
    finally:
        _RAISED.reset(token)


def _with(base: Limits, given: dict[str, Any], where: str) -> Limits:
    names = [f.name for f in fields(Limits)]
    for name, value in given.items():
        if name not in names:
            raise DataError(
                f"{where}: no limit is called {name!r}{did_you_mean(name, names) or '.'} "
                f"Known: {', '.join(names)}"
            )
        if not isinstance(value, int) or value < 1:
            raise DataError(f"{where}: {name}={value!r} is no whole number above 0")
    return replace(base, **given)


def _from_environment(text: str) -> Limits:
    given: dict[str, Any] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        name, _, value = part.partition("=")
        given[name.strip()] = int(value) if value.strip().isdecimal() else value
    return _with(Limits(), given, "ATTNVIZ_LIMITS") if given else Limits()


def check(name: str, got: int, what: str) -> None:
    """Raise if a number exceeds the limit of that name.

    Raises:
        DataError: saying what is too large and how the limit is raised.
    """
    most = getattr(current(), name)
    if got > most:
        raise DataError(
            f"{what}: {got:,} {name.replace('_', ' ')}, more than the limit of {most:,}; if it is "
            f"yours and meant so, raise it: ATTNVIZ_LIMITS={name}={got}"
        )


def parse_json(text: str | bytes, what: str) -> Any:
    """Return parsed JSON of bounded depth.

    Raises:
        DataError: not JSON, or nested too deeply.
    """
    try:
        found = json.loads(text)
    except RecursionError:
        raise DataError(f"{what} nests lists or objects too deeply") from None
    except (ValueError, MemoryError) as fault:  # also bytes that are no text, too long numbers
        raise DataError(f"{what} is not readable as JSON: {fault}") from fault
    most = current().json_depth
    level, depth = [found], 0
    while level:
        depth += 1
        if depth > most + 1:
            raise DataError(
                f"{what} nests lists or objects more than {most} deep; if it is meant so, raise "
                f"the limit: ATTNVIZ_LIMITS=json_depth={2 * most}"
            )
        inner: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                inner += [v for v in value.values() if isinstance(v, dict | list)]
            elif isinstance(value, list):
                inner += [v for v in value if isinstance(v, dict | list)]
        level = inner
    return found


def lines(stream: IO[str], what: str) -> Iterator[str]:
    """Yield the lines of a table; without a bound one of a gigabyte would be held as a whole.

    Raises:
        DataError: a line beyond the limit `line_characters`, or lines beyond the limit `rows`.
    """
    most = current().line_characters
    for number in itertools.count(1):
        line = stream.readline(most + 1)
        if not line:
            return
        check("rows", number, what)
        check("line_characters", len(line), f"{what}, line {number}")
        yield line


def check_tensors(path: Path, what: str) -> None:
    """Raise for a safetensors file with a tensor of more dimensions than numpy has.

    PyTorch takes any number of them, and minutes for millions.

    Raises:
        DataError: such a tensor, or a header that is none.
    """
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        check("json_bytes", size, f"{what}, its header")
        header = parse_json(file.read(size), f"{what}, its header,")
    for name, about in header.items() if isinstance(header, dict) else ():
        shape = about.get("shape") if isinstance(about, dict) else None
        if isinstance(shape, list) and len(shape) > 64:
            raise DataError(f"{what}: {str(name)[:60]!r} has {len(shape):,} dimensions, at most 64")


def check_archive(path: Path, what: str) -> None:
    """Raise for an archive that is small and opens into more than is decoded.

    What lies in it as it is counts for nothing: that is as large as it looks.

    Raises:
        DataError: too large when unpacked, or a damaged archive.
    """
    try:
        if not zipfile.is_zipfile(path):
            return
        with zipfile.ZipFile(path) as parts:
            packed = [i for i in parts.infolist() if i.compress_type != zipfile.ZIP_STORED]
    except Exception as fault:  # of a damaged header zipfile says so in many ways
        raise DataError(f"{what} is damaged: {fault}") from fault
    check("bytes", sum(i.file_size for i in packed), f"{what}, unpacked")


@contextlib.contextmanager
def reading(what: str | Path) -> Iterator[None]:
    """Turn what code stumbles over in a damaged file of attnviz's own into an error that names it.

    Raises:
        DataError: in place of what a value of another type or a missing one raises.
    """
    try:
        yield
    except AttnvizError:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as fault:
        raise DataError(
            f"{str(what)!r} is damaged ({type(fault).__name__}: {fault}); start over (force=True, "
            "--force)"
        ) from fault


def read_bytes(path: Path, limit: str = "json_bytes") -> bytes:
    """Return a file of text within the limits, without a byte-order mark.

    Raises:
        DataError: missing, too large, no regular file.
    """
    try:
        if path.exists() and not path.is_file():  # a pipe or a device could go on for ever
            raise DataError(f"{str(path)!r} is not a regular file")
        check(limit, path.stat().st_size, str(path))
        return path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    except FileNotFoundError:
        raise DataError(f"no such file: {str(path)!r}") from None
    except OSError as fault:
        raise DataError(f"{str(path)!r} cannot be read: {fault.strerror or fault}") from fault


def read_json(path: Path, limit: str = "json_bytes") -> Any:
    """Return a parsed JSON file (UTF-8, with or without a byte-order mark) within the limits.

    Raises:
        DataError: missing, too large, not JSON.
    """
    return parse_json(read_bytes(path, limit), str(path))


__all__ = [
    "Limits",
    "check",
    "check_archive",
    "check_tensors",
    "current",
    "lines",
    "parse_json",
    "raised",
    "read_bytes",
    "read_json",
    "reading",
]
