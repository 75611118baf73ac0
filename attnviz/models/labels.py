"""The names of a model's classes, where they are known."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import ModelError
from .environment import import_torchvision
from .loaded import LoadedModel

_IN1K = re.compile(r"(^|[_.\-])(in1k|imagenet1k)($|[_.\-])")


def imagenet_labels() -> tuple[str, ...]:
    """Return the 1000 ImageNet-1k class names in the usual order, each of them once."""
    weights = import_torchvision().models.ResNet18_Weights.DEFAULT
    return tuple(weights.meta["categories"])


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


def read_labels(path: str | Path) -> tuple[str, ...]:
    """Read class names from a text file (one a line) or a JSON list or {index: name} map.

    The word "imagenet" stands for the 1000 ImageNet-1k names.

    Raises:
        ModelError: the file is missing, empty or of another form.
    """
    if str(path).lower() == "imagenet":
        return imagenet_labels()
    path = Path(path).expanduser()
    try:
        text = path.read_text(encoding="utf-8")
        stored = json.loads(text) if path.suffix == ".json" else text.splitlines()
        if isinstance(stored, Mapping):
            stored = [stored[k] for k in sorted(stored, key=int)]
        labels = tuple(str(v).strip() for v in stored)
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(f"labels {path} cannot be read: {error}") from error
    while labels and not labels[-1]:
        labels = labels[:-1]
    if not labels or not all(labels):
        raise ModelError(f"labels {path} must name every class, one a line, without empty lines")
    return labels
