"""Attention of any model: read it (`tap`), turn it into maps and numbers.

Subpackages, imported when first used: `statistics` (a table of all heads), `views` (figures and
an offline page), `hf` (Hugging Face's own `output_attentions` under fused attention).
"""

from __future__ import annotations

import importlib
from typing import Any

from .tap import Gate, Missed, Places, Site, Tap, tap

_METHODS = "attnviz.methods.attention"

#: public name imported when first used -> module that defines it ("" for a subpackage of that name)
_PUBLIC: dict[str, str] = {
    "Relevance": f"{_METHODS}.relevance",
    "attention_flow": f"{_METHODS}.flow",
    "aligned": f"{__name__}.word_alignment",
    "explain_text": f"{__name__}.text",
    "hf": "",
    "region_mass": f"{_METHODS}.mass",
    "region_mass_of": f"{_METHODS}.mass",
    "relevance": f"{_METHODS}.relevance",
    "rollout": f"{_METHODS}.rollout",
    "statistics": "",
    "text": "",
    "views": "",
    "without_region": f"{__name__}.word_removal",
    "words": f"{__name__}.word_reading",
}

__all__ = ["Gate", "Missed", "Places", "Site", "Tap", "tap", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(_PUBLIC[name] or f"{__name__}.{name}")
    value = getattr(module, name) if _PUBLIC[name] else module
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
