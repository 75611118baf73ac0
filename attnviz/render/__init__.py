"""Pictures: maps over photos, from numpy arrays and tensors. Nothing given is changed."""

from .colour import COLORMAPS, colourise
from .contours import contours, truth_outline
from .grid import grid, grid_figure
from .overlay import overlay, overlay_tensor
from .panel import panel, panel_figure
from .place import place, place_tensor
from .scaling import Scale, normalise
from .tiles import Tile

__all__ = [
    "COLORMAPS",
    "Scale",
    "Tile",
    "colourise",
    "contours",
    "grid",
    "grid_figure",
    "normalise",
    "overlay",
    "overlay_tensor",
    "panel",
    "panel_figure",
    "place",
    "place_tensor",
    "truth_outline",
]
