"""Every way to make a map, under one name each: `METHODS`; a family a folder, a method a file."""

from .forward import ForwardPass, check_finite, forward_pass, rows
from .request import (
    FAMILIES,
    METHODS,
    RawMaps,
    Request,
    check_compiling,
    check_options,
    rectifies,
    runner,
    taken_by,
)

__all__ = [
    "FAMILIES",
    "METHODS",
    "ForwardPass",
    "RawMaps",
    "Request",
    "check_compiling",
    "check_finite",
    "check_options",
    "forward_pass",
    "rectifies",
    "rows",
    "runner",
    "taken_by",
]
