"""Masks that stay on disk, or in their compact form, until they are read.

A mask is (h, w) bool, True where the thing is. Polygons follow the half-open pixel convention of
the whole package: pixel i spans [i, i + 1), and a pixel belongs to a polygon when its centre
(i + 0.5, j + 0.5) lies inside by the even-odd rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from .. import limits
from ..errors import DataError, ImageError, MissingFile

#: crossings of edges and rows that are held at a time
_CROSSINGS = 1 << 20


class MaskSource(Protocol):
    """Something that yields a mask when asked."""

    def read(self, size: tuple[int, int]) -> np.ndarray:
        """Return (h, w) bool for an image of `size` = (h, w) pixels; another size raises."""
        ...


def _check_size(size: tuple[int, int]) -> None:
    """Raise if a mask of this size is more than is decoded: the size may be no photo's."""
    limits.check("mask_pixels", size[0] * size[1], f"a mask of {size[0]} x {size[1]}")


def _same_size(got: tuple[int, ...], expected: tuple[int, int], what: str) -> None:
    if tuple(got) != tuple(expected):
        hint = (
            " (height and width are swapped: was the photo turned by its EXIF orientation?)"
            if tuple(got) == (expected[1], expected[0])
            else ""
        )
        raise DataError(
            f"{what} is {got[0]} x {got[1]} pixels (height x width), the image {expected[0]} x "
            f"{expected[1]}{hint}; store masks at the size of their image"
        )


@dataclass(frozen=True, eq=False)
class ArrayMask:
    """A mask held in memory."""

    array: np.ndarray

    def read(self, size: tuple[int, int]) -> np.ndarray:
        """Return a copy as (h, w) bool."""
        if self.array.ndim != 2:
            raise DataError(
                f"a mask has shape {self.array.shape}, expected (height, width); drop the channels"
            )
        _same_size(self.array.shape, size, "a mask")
        return self.array.astype(bool)


@dataclass(frozen=True)
class MaskFile:
    """A mask in an image file: the pixels of the given values, or all that are not 0.

    Args:
        path: a PNG (or other lossless) file, 8 or 16 bits, grey or with a palette. The number
            stored for a pixel is its value; colours of a palette are not looked at.
        values: the values that belong to the thing; None takes every value but 0.
    """

    path: Path
    values: tuple[int, ...] | None = None

    def read(self, size: tuple[int, int]) -> np.ndarray:
        """Read the file. A missing, unreadable or colour file raises `DataError`."""
        values = read_label_image(self.path)
        _same_size(values.shape, size, f"mask {self.path}")
        return values != 0 if self.values is None else np.isin(values, self.values)


def read_label_image(path: Path) -> np.ndarray:
    """Return the numbers stored in a label image, (h, w) integers.

    Raises:
        DataError: missing, unreadable, no format of pixels, larger than the limit `mask_pixels`, or
            a colour picture whose channels differ (then it is not known which number a pixel has).
    """
    from ..images import open_image

    try:
        with open(path, "rb") as file:
            picture = open_image(file, f"mask {path}")
            limits.check("mask_pixels", picture.width * picture.height, f"mask {path}")
            if picture.mode not in ("1", "L", "P", "I", "I;16", "I;16B", "I;16L"):
                picture = picture.convert("RGB")
            values = np.array(picture)
    except FileNotFoundError:
        raise MissingFile(f"mask {path} does not exist") from None
    except DataError:
        raise
    except ImageError as fault:
        raise MissingFile(f"mask {path} cannot be read: {fault}") from fault
    except Exception as fault:  # decoders of damaged data raise nearly anything
        raise MissingFile(f"mask {path} cannot be read: {fault}") from fault
    if values.ndim == 3:
        if not (values == values[..., :1]).all():
            raise DataError(
                f"mask {path} is a colour picture; expected one number a pixel "
                f"(8-bit grey or palette PNG)"
            )
        values = values[..., 0]
    return values


@dataclass(frozen=True)
class PolygonMask:
    """The union of polygons, each (x0, y0, x1, y1, ...) in pixels."""

    polygons: tuple[tuple[float, ...], ...]

    def read(self, size: tuple[int, int]) -> np.ndarray:
        """Rasterise: a pixel belongs where its centre is inside any polygon."""
        _check_size(size)
        mask = np.zeros(size, bool)
        for polygon in self.polygons:
            mask |= polygon_mask(polygon, size)
        return mask


@dataclass(frozen=True, eq=False)
class RunLengthMask:
    """COCO's run-length code: runs of 0 and 1 in turn, column by column."""

    counts: str | bytes | tuple[int, ...]
    size: tuple[int, int]

    def read(self, size: tuple[int, int]) -> np.ndarray:
        """Decode; the code's own size must be the image's."""
        _same_size(self.size, size, "a run-length mask")
        return rle_decode(self.counts, self.size)


@dataclass(frozen=True)
class UnionMask:
    """Where any of several masks is."""

    parts: tuple[Any, ...]

    def read(self, size: tuple[int, int]) -> np.ndarray:
        """Read all parts."""
        _check_size(size)
        mask = np.zeros(size, bool)
        for part in self.parts:
            mask |= part.read(size)
        return mask


@dataclass(frozen=True)
class BoxMask:
    """The pixels whose centre lies in a box (x0, y0, x1, y1)."""

    box: tuple[float, float, float, float]

    def read(self, size: tuple[int, int]) -> np.ndarray:
        """Return the filled box."""
        _check_size(size)
        x0, y0, x1, y1 = self.box
        columns = np.arange(size[1]) + 0.5
        rows = np.arange(size[0]) + 0.5
        return ((rows >= y0) & (rows < y1))[:, None] & ((columns >= x0) & (columns < x1))[None]


def files_of(mask: Any) -> list[Path]:
    """Return the files that a mask is read from."""
    if isinstance(mask, MaskFile):
        return [mask.path]
    return [f for part in mask.parts for f in files_of(part)] if isinstance(mask, UnionMask) else []


def polygon_mask(points: Sequence[float], size: tuple[int, int]) -> np.ndarray:
    """Return (h, w) bool: the pixels whose centre is inside one polygon, by the even-odd rule.

    Args:
        points: x0, y0, x1, y1, ... in pixels, at least three points, closed or not.
        size: (h, w) of the image.
    """
    limits.check("polygon_points", len(points) // 2, "a polygon")
    flat = np.asarray(points, float)
    if flat.ndim != 1 or flat.size % 2 or flat.size < 6 or not np.isfinite(flat).all():
        raise DataError(
            f"a polygon has {flat.size} numbers, expected x, y pairs of at least 3 points, "
            f"all finite"
        )
    _check_size(size)
    height, width = size
    ends = flat.reshape(-1, 2), np.roll(flat.reshape(-1, 2), -1, axis=0)
    low, high = np.minimum(ends[0], ends[1])[:, 1], np.maximum(ends[0], ends[1])[:, 1]
    # Each edge toggles all pixels to the right of where it crosses a row of pixel centres;
    # half-open: low <= centre < high, so a level edge crosses none.
    first = np.clip(np.ceil(low - 0.5), 0, height).astype(np.int64)
    last = np.clip(np.ceil(high - 0.5), 0, height).astype(np.int64)
    crossed = np.cumsum(last - first)
    limits.check("polygon_crossings", int(crossed[-1]), "a polygon")
    # bytes that run over keep what counts: whether the number is odd
    toggles = np.zeros(height * (width + 1), np.uint8)
    start = 0
    while start < len(first):
        done = crossed[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(crossed, done + _CROSSINGS)))
        times = (last - first)[start:stop]
        edge = np.repeat(np.arange(start, stop), times)
        rows = np.arange(len(edge)) - np.repeat(np.cumsum(times) - times, times) + first[edge]
        (ax, ay), (bx, by) = ends[0][edge].T, ends[1][edge].T
        cross = ax + (rows + 0.5 - ay) * (bx - ax) / (by - ay)
        column = np.clip(np.ceil(cross - 0.5), 0, width).astype(np.int64)
        np.add.at(toggles, rows * (width + 1) + column, np.uint8(1))
        start = stop
    toggles = toggles.reshape(height, width + 1)
    inside = np.cumsum(toggles[:, :width], 1, dtype=np.uint8)
    inside &= 1
    return inside.astype(bool)


def rle_decode(counts: str | bytes | Sequence[int], size: tuple[int, int]) -> np.ndarray:
    """Return the (h, w) bool mask of a COCO run-length code (list of runs, or its packed string).

    The packed form writes each run, from the fourth on as the difference to the run two before,
    in groups of five bits with a continuation bit, offset by 48 (COCO API, `maskApi.c`).
    """
    if isinstance(counts, (str, bytes)):
        try:
            code = counts.encode("ascii") if isinstance(counts, str) else counts
        except UnicodeEncodeError:
            raise DataError("a packed run-length mask holds a letter that is no code") from None
        counts = _unpack_runs(code)
    _check_size(size)
    height, width = size
    if not all(type(n) is int and 0 <= n <= height * width for n in counts):
        raise DataError(
            f"a run-length mask of {height} x {width} pixels has runs that are no whole numbers "
            f"from 0 to {height * width}"
        )
    runs = np.asarray(counts, np.int64)
    if int(runs.sum()) != height * width:
        raise DataError(
            f"a run-length mask covers {int(runs.sum())} pixels, expected {height} x {width} = "
            f"{height * width}; check 'size' and 'counts'"
        )
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return flat.reshape(width, height).T.copy()


def rle_encode(mask: np.ndarray) -> list[int]:
    """Return the runs of 0 and 1 in turn of a mask (h, w), column by column: see `rle_decode`."""
    flat = np.asarray(mask, bool).T.ravel()
    ends = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff(np.concatenate([[0], ends, [len(flat)]])).tolist()
    return [0, *runs] if len(flat) and flat[0] else runs


def _unpack_runs(code: bytes) -> list[int]:
    runs: list[int] = []
    value = shift = 0
    for byte in code:
        digit = byte - 48
        if not 0 <= digit < 64 or shift > 55:
            raise DataError(
                f"a packed run-length mask holds the byte {byte}, which is no code of it"
            )
        value |= (digit & 0x1F) << shift
        shift += 5
        if not digit & 0x20:
            if digit & 0x10:
                value -= 1 << shift
            if len(runs) > 2:
                value += runs[-2]
            runs.append(value)
            value = shift = 0
    if shift:
        raise DataError("a packed run-length mask ends within a number; is the string cut off?")
    return runs


def mask_box(mask: np.ndarray) -> tuple[float, float, float, float] | None:
    """Return the half-open box (x0, y0, x1, y1) around a mask, or None where it is empty."""
    rows = np.flatnonzero(mask.any(1))
    if not len(rows):
        return None
    columns = np.flatnonzero(mask.any(0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)
