"""The names of a model's classes, where they are known."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import nn

from .label_files import imagenet_labels
from .loaded import LoadedModel

_IN1K = re.compile(r"(^|[_.\-])(in1k|imagenet1k)($|[_.\-])")


def labels_of(
    module: nn.Module | None = None, loaded: LoadedModel | None = None
) -> tuple[str, ...] | None:
    """Return the class names of a model, or None where they are not known.

    A thousand outputs alone do not make an ImageNet model: the labels come from the loaded
    weights, from a Hugging Face config, or from a timm config that names its data.

    Args:
        module: the model.
        loaded: what loading by name knows of it.
    """
    if loaded is not None and loaded.labels is not None:
        return loaded.labels
    if module is None:
        return None
    return _from_hf(module) or _from_timm(module)


def _from_hf(module: nn.Module) -> tuple[str, ...] | None:
    names: Any = getattr(getattr(module, "config", None), "id2label", None)
    if not isinstance(names, Mapping) or not names:
        return None
    head = getattr(module, "classifier", None)
    if isinstance(head, nn.Linear) and head.out_features not in (len(names), 1):
        return None  # the head was replaced
    ordered = {int(k): str(v) for k, v in names.items()}
    if sorted(ordered) != list(range(len(ordered))):
        return None
    if all(v == f"LABEL_{k}" for k, v in ordered.items()):
        return None  # what transformers fills in where nothing is known
    return tuple(ordered[i] for i in range(len(ordered)))


def _from_timm(module: nn.Module) -> tuple[str, ...] | None:
    cfg = getattr(module, "pretrained_cfg", None)
    if not cfg or not type(module).__module__.startswith("timm."):
        return None
    cfg = cfg if isinstance(cfg, Mapping) else vars(cfg)
    count = getattr(module, "num_classes", None)
    if count != cfg.get("num_classes"):
        return None  # the head was replaced
    named = cfg.get("label_descriptions") or cfg.get("label_names")
    if isinstance(named, Mapping):
        named = [named[k] for k in cfg.get("label_names") or named]
    if named and len(named) == count:
        return tuple(str(v) for v in named)
    if count == 1000 and _IN1K.search(str(cfg.get("tag") or "")):
        return imagenet_labels()
    return None
