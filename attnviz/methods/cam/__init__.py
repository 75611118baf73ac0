"""Class activation maps: pure functions of a layer's activation and its gradient, one file each.

    fn(activation (B, C, h, w), gradient (B, C, h, w)) -> map (B, h, w)

No function detaches, so the map that is shown can be trained too. With `relu=False` a map keeps
its negative part (what speaks against the score).
"""

from .. import METHODS
from ._register import register_cam
from ._run import apply_cam, read_layers

__all__ = ["METHODS", "apply_cam", "read_layers", "register_cam"]
