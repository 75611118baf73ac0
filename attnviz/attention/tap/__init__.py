"""Reading attention while a model runs: `tap`, and what it finds, `Site` and `Gate`."""

from ._places import Places
from ._tap import Tap, tap
from .site import Gate, Missed, Site

__all__ = ["Gate", "Missed", "Places", "Site", "Tap", "tap"]
