"""What is explained: a class, a contrast of two, a probability, a region, or a function of yours.

A target turns the model's output into one number per image, the score; every map is a statement
about that score. Each can be written as text too: see `parse`.
"""

from ..models.classes import class_index
from ..models.outputs import logits_of
from .columns import Column, resolve
from .detected import BoxTarget
from .finer import FinerTarget
from .grammar import parse, parsed
from .kinds import ClassTarget, Contrast, Probability, RegionTarget, Target
from .placed import EmbeddingTarget, PhotoRegion, Setting, ready
from .prompted import TextTarget, TokenTarget, prompted

__all__ = [
    "BoxTarget",
    "ClassTarget",
    "Column",
    "Contrast",
    "EmbeddingTarget",
    "FinerTarget",
    "PhotoRegion",
    "Probability",
    "RegionTarget",
    "Setting",
    "Target",
    "TextTarget",
    "TokenTarget",
    "class_index",
    "logits_of",
    "parse",
    "parsed",
    "prompted",
    "ready",
    "resolve",
]
