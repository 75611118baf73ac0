"""Guidance: train a model on its own maps, so that it looks at what it should look at.

In your own training loop, three lines:

    seen = guidance.class_map(model, x, y)                     # logits and maps, one forward
    loss = F.cross_entropy(seen.logits, y) + guidance.losses.energy(seen, masks).total
    loss.backward()

or leave the loop to `guidance.fit`.
"""

from __future__ import annotations

import importlib
from typing import Any

_PUBLIC = {
    "Alive": "liveness",
    "Annotation": "annotation",
    "Answers": "answering",
    "CRITERIA": "choosing",
    "Choice": "choosing",
    "ClassMap": "class_maps",
    "ContextClassifier": "losses.box",
    "Examples": "examples",
    "Exchanged": "exchanging",
    "FitResult": "fitting",
    "GuideConfig": "config",
    "HeadResult": "retraining",
    "LOSSES": "losses",
    "LossParts": "losses",
    "MassGuard": "guards",
    "POOLINGS": "pooling",
    "PooledModel": "pooling",
    "Strength": "guards",
    "annotate": "annotation",
    "answers": "answering",
    "batchnorm_frozen": "batchnorm",
    "budget_curve": "choosing",
    "check_alive": "liveness",
    "choose": "choosing",
    "classes_among": "proposing",
    "class_map": "class_maps",
    "emptied": "exchanging",
    "exchange": "exchanging",
    "findings": "answering",
    "fit": "fitting",
    "losses": "",
    "new_head": "examples",
    "propose": "proposing",
    "restored": "stored",
    "retrain_head": "retraining",
    "save_weights": "stored",
    "seam_control": "exchanging",
    "with_pooling": "pooling",
}

__all__ = [*_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'attnviz.guidance' has no attribute {name!r}")
    module = importlib.import_module(f".{_PUBLIC[name] or name}", __name__)
    value = getattr(module, name) if _PUBLIC[name] else module
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
