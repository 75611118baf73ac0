"""Every way to make a map, under one name each: `METHODS`; a family a folder, a method a file."""

from .request import FAMILIES, METHODS, RawMaps, Request, runner

__all__ = ["FAMILIES", "METHODS", "RawMaps", "Request", "runner"]
