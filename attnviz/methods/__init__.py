"""Every way to make a map, under one name each: `METHODS`; a family a folder, a method a file."""

from .request import (
    FAMILIES,
    METHODS,
    RawMaps,
    Request,
    check_options,
    options_of,
    runner,
    taken_by,
)

__all__ = [
    "FAMILIES",
    "METHODS",
    "RawMaps",
    "Request",
    "check_options",
    "options_of",
    "runner",
    "taken_by",
]
