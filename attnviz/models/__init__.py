"""Models: loading them, and knowing their preprocessing, labels, default layer and token grid."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .argument import resolve_model
    from .captions import captioner
    from .dense import dense_prompts
    from .label_files import as_labels, imagenet_labels, read_labels
    from .labels import labels_of
    from .layers import default_layer, list_layers
    from .layout import Layout, infer_layout
    from .loaded import LoadedModel
    from .loading import load
    from .outputs import reading
    from .preprocess import Preprocess
    from .prompts import zero_shot
    from .resolving import resolve_preprocess
    from .transforms import ImageTransform

_PUBLIC = {
    "ImageTransform": "transforms",
    "Layout": "layout",
    "LoadedModel": "loaded",
    "Preprocess": "preprocess",
    "captioner": "captions",
    "default_layer": "layers",
    "dense_prompts": "dense",
    "imagenet_labels": "label_files",
    "infer_layout": "layout",
    "labels_of": "labels",
    "list_layers": "layers",
    "load": "loading",
    "as_labels": "label_files",
    "read_labels": "label_files",
    "reading": "outputs",
    "resolve_model": "argument",
    "resolve_preprocess": "resolving",
    "zero_shot": "prompts",
}

__all__ = [
    "ImageTransform",
    "Layout",
    "LoadedModel",
    "Preprocess",
    "as_labels",
    "captioner",
    "default_layer",
    "dense_prompts",
    "imagenet_labels",
    "infer_layout",
    "labels_of",
    "list_layers",
    "load",
    "read_labels",
    "reading",
    "resolve_model",
    "resolve_preprocess",
    "zero_shot",
]


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name not in _PUBLIC:
            raise AttributeError(f"module 'attnviz.models' has no attribute {name!r}")
        value = getattr(importlib.import_module(f".{_PUBLIC[name]}", __name__), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted(__all__)
