"""Every way to make a map, under one name each: `METHODS`.

A family is a package of methods that are run the same way. Its `run` function (named here by
import path, so that nothing heavy is imported early) turns a model and a batch into maps.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from .registry import Registry

METHODS = Registry("method", "attnviz.cams")

#: family -> "module:function"; see `attnviz.explaining` for the signature of a runner.
FAMILIES: dict[str, str] = {
    "cam": "attnviz.cams._run:run",
}


def runner(family: str) -> Callable[..., Any]:
    """Return the function that runs the methods of a family."""
    module, _, name = FAMILIES[family].partition(":")
    return getattr(importlib.import_module(module), name)
