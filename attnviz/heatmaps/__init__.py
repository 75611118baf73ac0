"""Heatmaps: raw maps with where they come from and where they lie on the photo."""

from .core import Heatmaps
from .pictures import grid
from .volumes import animate

__all__ = ["Heatmaps", "animate", "grid"]
