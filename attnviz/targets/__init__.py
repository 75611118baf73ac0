"""What is explained: a class, a contrast of two, a probability, a region, or a function of yours.

A target turns the model's output into one number per image, the score; every map is a statement
about that score.
"""

from ..models.classes import class_index
from ..models.outputs import logits_of
from .columns import Column, resolve
from .kinds import ClassTarget, Contrast, Probability, RegionTarget, Target

__all__ = [
    "ClassTarget",
    "Column",
    "Contrast",
    "Probability",
    "RegionTarget",
    "Target",
    "class_index",
    "logits_of",
    "resolve",
]
