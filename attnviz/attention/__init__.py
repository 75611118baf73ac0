"""Attention of any model: read it (`tap`), turn it into maps and numbers.

Subpackages, imported when first used: `statistics` (a table of all heads), `views` (figures and
an offline page), `drawings` (a picture for each mechanism), `reference` (small modules of the
literature), `hf` (Hugging Face's own `output_attentions` under fused attention).
"""

import importlib
from typing import Any

from .maps.flow import attention_flow
from .maps.rollout import rollout
from .mass import region_mass, region_mass_of
from .relevance import Relevance, relevance
from .tap import Gate, Missed, Places, Site, Tap, tap

__all__ = [
    "Gate",
    "Missed",
    "Places",
    "Relevance",
    "Site",
    "Tap",
    "attention_flow",
    "region_mass",
    "region_mass_of",
    "relevance",
    "rollout",
    "tap",
]

_SUBPACKAGES = ("drawings", "hf", "reference", "statistics", "views")


def __getattr__(name: str) -> Any:
    if name not in _SUBPACKAGES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module(f"{__name__}.{name}")
