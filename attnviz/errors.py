"""What can go wrong, as types. Every message says what, got, expected, and what to do next.

* AttnvizError
  + LayerNotFound        a layer name or module is not part of the model
  + CaptureError         a layer was found but could not be read (twice called, no graph, ...)
  + LayoutError          an activation cannot be laid out as (B, C, h, w)
  + TargetError          what to explain is unknown, out of range, or of the wrong count
  + ModelError           a model name, checkpoint or factory cannot be turned into a model
  + PreprocessError      it is not known how an image becomes the model's input
  + ImageError           a file or array is not a readable image
  + MethodError          a method is unknown, or does not apply to this model
  + AttentionUnavailable no attention could be read
  + DataError            a dataset, mask or box is missing, empty or inconsistent
  + MetricError          a metric cannot be computed or two numbers cannot be compared
  + GuidanceError        a guided training cannot work as configured
  + OutputExists         a file would be overwritten
  + EnvironmentFault     an installed package is missing or broken
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class AttnvizError(Exception):
    """Base of every error that attnviz raises on purpose.

    Attributes:
        command: the message in the words of the command line, where its advice differs there.
    """

    def __init__(self, *args: object, command: str | None = None) -> None:
        super().__init__(*args)
        self.command = command


class LayerNotFound(AttnvizError, KeyError):
    """A layer name or module is not part of the model."""

    __str__ = Exception.__str__  # KeyError would print the message quoted


class CaptureError(AttnvizError, RuntimeError):
    """A layer exists but could not be read."""


class LayoutError(AttnvizError, ValueError):
    """An activation cannot be laid out as (B, C, h, w)."""


class TargetError(AttnvizError, ValueError):
    """What is to be explained is unknown, out of range, or of the wrong count."""


class ModelError(AttnvizError, ValueError):
    """A model name, checkpoint or factory cannot be turned into a model."""


class PreprocessError(AttnvizError, ValueError):
    """It is not known how an image becomes the model's input."""


class ImageError(AttnvizError, ValueError):
    """A file or array is not a readable image."""


class MethodError(AttnvizError, ValueError):
    """A method is unknown, or does not apply to this model."""


class AttentionUnavailable(AttnvizError, RuntimeError):
    """No attention could be read from the model."""


class DataError(AttnvizError, ValueError):
    """A dataset, mask or box is missing, empty or inconsistent."""


class MetricError(AttnvizError, ValueError):
    """A metric cannot be computed, or two numbers cannot be compared."""


class GuidanceError(AttnvizError, RuntimeError):
    """A guided training cannot work as configured."""


class OutputExists(AttnvizError, FileExistsError):
    """A file would be overwritten; pass `force=True` or `--force`."""


class EnvironmentFault(AttnvizError, ImportError):
    """An installed package is missing or broken."""


class AttnvizWarning(UserWarning):
    """Something is doubtful; the message says what to do about it."""


class FlatMapWarning(AttnvizWarning):
    """A map says the same everywhere: the method found no evidence, which is no error."""


def did_you_mean(name: str, known: Iterable[str], *, most: int = 3) -> str:
    """Return `; did you mean 'a' or 'b'?` for the nearest known names, or an empty string."""
    table = {k.lower(): k for k in known}
    near = difflib.get_close_matches(str(name).lower(), list(table), n=most, cutoff=0.55)
    if not near:
        return ""
    return "; did you mean " + " or ".join(repr(table[n]) for n in near) + "?"
