"""Reading activations and gradients out of a model that stays as it was."""

from .capture import Capture, capture
from .checkpointing import without_checkpointing
from .compiling import compiled
from .kernels import differentiable_attention
from .modules import averaging, eager, find_layers, is_sharded, named_parts, unwrap, walked
from .outputs import wide
from .preserve import preserved
from .threads import own_thread

__all__ = [
    "Capture",
    "averaging",
    "capture",
    "compiled",
    "differentiable_attention",
    "eager",
    "find_layers",
    "is_sharded",
    "named_parts",
    "own_thread",
    "preserved",
    "unwrap",
    "walked",
    "wide",
    "without_checkpointing",
]
