"""Heatmaps: raw maps with where they come from and where they lie on the photo."""

from .core import Heatmaps
from .pictures import compare

__all__ = ["Heatmaps", "compare"]
