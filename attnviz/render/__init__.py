"""Pictures: maps over photos, from numpy arrays and tensors. Nothing given is changed."""

from .colour import COLORMAPS, colourise
from .overlay import overlay, overlay_tensor
from .place import place, place_tensor

__all__ = ["COLORMAPS", "colourise", "overlay", "overlay_tensor", "place", "place_tensor"]
