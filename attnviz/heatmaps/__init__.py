"""Heatmaps: raw maps with where they come from and where they lie on the photo."""

from .core import Heatmaps
from .empty import warn_of_flat
from .notebook import ByName
from .pictures import grid, joined
from .volumes import animate

__all__ = ["ByName", "Heatmaps", "animate", "grid", "joined", "warn_of_flat"]
