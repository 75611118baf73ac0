"""Boat or water? A benchmark of context confusion that runs offline.

* `generate`: scenes drawn by code, with exact masks and the exact scene without the object.
* `train_confused`, `train_unconfused`: a small network that is confused, or is not, in seconds.

All images come as `GroupedImages`: label (boat or other) x context (water or land).
"""

from __future__ import annotations

import importlib
from typing import Any

_PUBLIC = {
    "CLASSES": "arrays",
    "CONTEXTS": "arrays",
    "GROUPS": "arrays",
    "REGIONS": "arrays",
    "GroupedImages": "arrays",
    "contact_sheet": "arrays",
    "Scene": "scenes",
    "balanced": "scenes",
    "generate": "scenes",
    "render": "scenes",
    "SmallNet": "recipe",
    "Trained": "recipe",
    "fit": "recipe",
    "group_accuracy": "recipe",
    "predict": "recipe",
    "train": "recipe",
    "train_confused": "recipe",
    "train_unconfused": "recipe",
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # A submodule is never called like a name in it, so importing one cannot hide the other.
    value = getattr(importlib.import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
