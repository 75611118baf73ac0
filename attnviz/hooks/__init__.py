"""Reading activations and gradients out of a model that stays as it was."""

from .capture import Capture, capture
from .modules import eager, find_layers, unwrap
from .preserve import preserved

__all__ = ["Capture", "capture", "eager", "find_layers", "preserved", "unwrap"]
