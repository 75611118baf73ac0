"""Heatmaps: raw maps with where they come from and where they lie on the photo."""

from .core import Heatmaps
from .pictures import grid

__all__ = ["Heatmaps", "grid"]
