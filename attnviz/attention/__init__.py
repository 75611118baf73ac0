"""Attention of any model: read it (`tap`), turn it into maps and numbers."""

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
