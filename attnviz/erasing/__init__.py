"""Erasing: take away what a model looks at, to train on it or to see what it looks at next.

* `erase` replaces a region by one of the `FILLS`.
* `mine` shows a trained model's second, third ... evidence.
* `SCHEMES` are losses for training: hide-and-seek, CutMix, ADL, EIL, SeeNet; `ACoL` is a module,
  `cascade` a loop of trainings.
"""

from .acol import ACoL, ACoLOutput
from .adl import attention_dropout
from .cascade import Cascade, cascade, top_region
from .cutmix import Mixed, cut_and_mix
from .fills import FILLS, erase
from .hide_and_seek import hide_cells
from .mining import Mined, mine
from .schemes import SCHEMES

__all__ = [
    "FILLS",
    "SCHEMES",
    "ACoL",
    "ACoLOutput",
    "Cascade",
    "Mined",
    "Mixed",
    "attention_dropout",
    "cascade",
    "cut_and_mix",
    "erase",
    "hide_cells",
    "mine",
    "top_region",
]
