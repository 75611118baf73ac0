"""What several readers need: safe names, bounded files, values checked once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from ... import limits
from ...errors import DataError

IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".jfif")
)


def inside(root: Path, name: Any, what: str) -> Path:
    """Return `root / name`; a name that leads out of `root`, or is no name, raises.

    An annotation file that somebody else wrote must not make attnviz read any other file.
    """
    if not isinstance(name, str) or not name.strip() or "\0" in name:
        raise DataError(f"{what}: file name {name!r} is not a name")
    parts = PurePosixPath(name.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts or ":" in parts.parts[0]:
        raise DataError(
            f"{what}: file name {name!r} leads out of the image folder {root}; "
            f"expected a name relative to it"
        )
    return root / parts


def read_json(path: Path) -> Any:
    """Return a parsed JSON file within `attnviz.limits`; a fault raises `DataError`."""
    return limits.read_json(path, "annotation_bytes")


def text(item: Mapping[str, Any], name: str, what: str) -> str | None:
    """Return an entry that is a text, or None where it is absent or empty; else raise."""
    value = item.get(name)
    if value is not None and not isinstance(value, str):
        raise DataError(f"{what}: {name!r} is {value!r:.60}, expected a text")
    return value or None


def key(value: Any, what: str) -> int | str:
    """Return an identifier: a whole number or a text; anything else raises."""
    if type(value) not in (int, str):
        raise DataError(f"{what}: {value!r:.60} is no identifier, which is a number or a text")
    return value


def number(value: Any, what: str) -> float:
    """Return a finite number; anything else raises."""
    try:
        result = float(value) if isinstance(value, int | float | str) else float("nan")
    except (ValueError, OverflowError):
        result = float("nan")
    if isinstance(value, bool) or not abs(result) < 1e9:
        raise DataError(f"{what}: {value!r} is not a number")
    return result


def whole_size(height: Any, width: Any, what: str) -> tuple[int, int] | None:
    """Return (height, width), or None where both are absent; not positive whole numbers raise."""
    if height is None and width is None:
        return None
    numbers = number(height, f"{what}, height"), number(width, f"{what}, width")
    if any(n < 1 or n != int(n) for n in numbers):
        raise DataError(f"{what}: size {height!r} x {width!r}, expected whole pixels above 0")
    limits.check("pixels", int(numbers[0]) * int(numbers[1]), f"{what}: the size stated")
    return int(numbers[0]), int(numbers[1])


def image_root(root: Path, given: Path | None, *usual: str) -> Path:
    """Return the folder of the images: as given, else the first usual one that exists."""
    if given is not None:
        return given
    base = root if root.is_dir() else root.parent
    return next((base / name for name in usual if (base / name).is_dir()), base)
