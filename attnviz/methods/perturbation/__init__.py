"""Methods that change the picture, or the activation, and look at the score; one file each.

    fn(group, layer, *, options) -> maps (K, g, h, w) for K classes and the g images of a group

Passes are as large as memory allows; several classes share them, and none keeps its copies.
"""

from .. import METHODS
from ._register import register_perturbation

__all__ = ["METHODS", "register_perturbation"]
