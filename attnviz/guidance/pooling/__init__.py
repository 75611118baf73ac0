"""Pooling heads: the image as a bag of patches, its score pooled from theirs.

model = guidance.with_pooling(model, "lse", r=4.0)
"""

from .heads import POOLINGS
from .swapping import PooledModel, with_pooling

__all__ = ["POOLINGS", "PooledModel", "with_pooling"]
