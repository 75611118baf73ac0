"""Models: loading them, and knowing their preprocessing, labels, default layer and token grid."""

from __future__ import annotations

import importlib
from typing import Any

_PUBLIC = {
    "ImageTransform": "transforms",
    "Layout": "layout",
    "LoadedModel": "loaded",
    "Preprocess": "preprocess",
    "default_layer": "layers",
    "imagenet_labels": "label_files",
    "infer_layout": "layout",
    "labels_of": "labels",
    "list_layers": "layers",
    "load": "loading",
    "as_labels": "label_files",
    "read_labels": "label_files",
    "reading": "outputs",
    "resolve_preprocess": "resolving",
}

__all__ = [*_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'attnviz.models' has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_PUBLIC[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
