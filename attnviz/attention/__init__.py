"""Attention of any model: read it (`tap`), turn it into maps and numbers."""

from .tap import Gate, Missed, Site, Tap, tap

__all__ = ["Gate", "Missed", "Site", "Tap", "tap"]
