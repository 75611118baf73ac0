"""Pictures: maps over photos, from numpy arrays and tensors. Nothing given is changed."""

from .colour import COLORMAPS, colourise
from .contours import contours, truth_outline
from .grid import grid
from .overlay import overlay, overlay_tensor
from .panel import panel
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
    "normalise",
    "overlay",
    "overlay_tensor",
    "panel",
    "place",
    "place_tensor",
    "truth_outline",
]
