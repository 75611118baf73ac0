"""Boat or water? Audit a classifier for reading the context instead of the object.

    found = audit.confusion(model, data, object="boat", context="water")
    print(found)                 # what it reads, how surely
    found.save("audit-boat")     # report.html, audit.json, images.csv

`Question` puts a vision-language model in the place of the classifier: what it answers is scored.
`against` compares two models on the same images, `rank_pairs` ranks all class pairs of a dataset
by risk. Without annotated contexts: `discover` clusters what the maps of a class cover, or audits
the concepts of a layer as contexts (`by="concepts"`),
`confusion(..., context_masks=segment)` takes masks of the context from a function photo -> mask,
and `text_context` labels it by two prompts and a CLIP model. A study,
`notebooks/studies/audit_photographs.py`, trains a confused
network on composed photographs, audits it, and its guided copy beside it.
"""

from __future__ import annotations

import importlib
from typing import Any

_PUBLIC = {
    "AuditResult": "result",
    "BeforeAfter": "comparing",
    "Cell": "result",
    "ClusterBootstrap": "..statistics.clustered",
    "Discovery": "discovery",
    "Effect": "result",
    "Journal": "journal",
    "LogOdds": "log_odds",
    "Pair": "ranking",
    "Question": "asking",
    "Verdict": "verdict",
    "against": "comparing",
    "compare": "comparing",
    "confusion": "running",
    "discover": "discovery",
    "mcnemar": "..statistics.exact",
    "rank_pairs": "ranking",
    "text_context": "prompting",
    "wilson": "..statistics.exact",
}

__all__ = sorted(_PUBLIC)


def _module(name: str) -> str:
    return _PUBLIC[name] if _PUBLIC[name].startswith(".") else f".{_PUBLIC[name]}"


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'attnviz.audit' has no attribute {name!r}")
    value = getattr(importlib.import_module(_module(name), __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
