"""Class activation maps: pure functions of a layer's activation and its gradient, one file each.

    fn(activation (B, C, h, w), gradient (B, C, h, w)) -> map (B, h, w)

No function detaches, so the map that is shown can be trained too. A function returns
negative values too (what speaks against the score); `apply_cam` drops them where the paper does.
"""

from .. import METHODS
from ._register import register_cam
from ._run import apply_cam, read_layers

__all__ = ["METHODS", "apply_cam", "read_layers", "register_cam"]
