"""Reading attention while a model runs: `tap`, and what it finds, `Site` and `Gate`."""

from ._places import Places
from ._tap import Tap, tap
from .gate import Gate, Missed
from .site import Site
from .tags import Stream

__all__ = ["Gate", "Missed", "Places", "Site", "Stream", "Tap", "tap"]
