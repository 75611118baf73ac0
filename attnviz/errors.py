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
  + MissingFile          a DataError: a photo or mask is not where the dataset says, or no longer
  + MetricError          a metric cannot be computed or two numbers cannot be compared
  + GuidanceError        a guided training cannot work as configured
  + OutputExists         a file would be overwritten
  + EnvironmentFault     an installed package is missing or broken
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from types import ModuleType


class AttnvizError(Exception):
    """Base of every error that attnviz raises on purpose.

    Attributes:
        command: the message in the words of the command line, where its advice differs there.

    Cause: anything below; catch this one to catch them all.
    Next: read the message: it says what was given, what is possible, and what to do. On the
        command line `--debug` adds the traceback.
    """

    def __init__(self, *args: object, command: str | None = None) -> None:
        super().__init__(*args)
        self.command = command


class LayerNotFound(AttnvizError, KeyError):
    """A layer name or module is not part of the model.

    Cause: a misspelt name, one of another architecture, or a module of another copy of the
        model.
    Next: take a name from `attnviz layers MODEL` or `attnviz.models.list_layers(model)`;
        the message has the nearest ones.
    """

    __str__ = Exception.__str__  # KeyError would print the message quoted


class CaptureError(AttnvizError, RuntimeError):
    """A layer exists but could not be read.

    Cause: the layer did not run in this forward pass, ran several times, returned no
        tensor, or its output has no graph (inference mode, a scripted part).
    Next: choose a layer that runs once; name the call (`call=0`, `-1` for the last); call
        from outside `torch.inference_mode()`; hand over the model before scripting.
    """


class LayoutError(AttnvizError, ValueError):
    """An activation cannot be laid out as (B, C, h, w).

    Cause: a layer gives tokens or channels in an order that its output does not tell, or no
        places at all (behind the pooling).
    Next: say it (`layout="channels_last"`, `attnviz.models.Layout(...)`), or choose an
        earlier layer.
    """


class TargetError(AttnvizError, ValueError):
    """What is to be explained is unknown, out of range, or of the wrong count.

    Cause: a class that the model has not, a label that `labels=` does not hold, as many
        targets as there are not images, or a function that does not give one score an
        image.
    Next: give an index or one of the labels listed; one target for all images or one for
        each; several classes for every image by `classes=[...]`.
    """


class ModelError(AttnvizError, ValueError):
    """A model name, checkpoint or factory cannot be turned into a model.

    Cause: a misspelt name, weights of another architecture, a checkpoint with code in it,
        or several outputs that could be the logits.
    Next: `attnviz doctor` says what is installed; name the architecture as it was trained;
        save `model.state_dict()` alone; name the logits (`output=`).
    """


class PreprocessError(AttnvizError, ValueError):
    """It is not known how an image becomes the model's input.

    Cause: a photo was given and the model states no size, mean and deviation of its own.
    Next: `--preprocess imagenet`, or `preprocess=` with what the model is evaluated with;
        or hand over tensors that are preprocessed.
    """


class ImageError(AttnvizError, ValueError):
    """A file or array is not a readable image.

    Cause: no such file, no image, one that is damaged, larger than the limit, or inputs of
        unlike shapes.
    Next: open it with a viewer; convert it to PNG or JPEG; pass images of one size, or one
        at a time.
    """


class MethodError(AttnvizError, ValueError):
    """A method is unknown, or does not apply to this model.

    Cause: a misspelt method or option, or one that needs what the model has not: attention,
        a linear head, ReLU.
    Next: `attnviz methods` lists them by family; the message says which apply and what is
        missing.
    """


class AttentionUnavailable(AttnvizError, RuntimeError):
    """No attention could be read from the model.

    Cause: the model has no attention, or runs it in kernels that cannot be read (compiled,
        scripted, written by hand).
    Next: `attnviz inspect MODEL` lists what was read and what was not; turn compilation off
        for the explanation, or use a class activation map.
    """


class DataError(AttnvizError, ValueError):
    """A dataset, mask or box is missing, empty or inconsistent.

    Cause: a folder of no known layout, masks that do not fit their images, files that are
        missing, a damaged result, NaN or infinite values.
    Next: the message names file and line; `.github/docs/own-data.md` has the layouts; for
        NaN look at the weights, and try float32.
    """


class MissingFile(DataError):
    """A photo or mask is not where the dataset says, no longer, or damaged.

    Cause: a file that was moved, renamed, deleted or cut short, also while an audit or a training
        runs (these go on without it, and say so).
    Next: put it back, or take it out of the annotation (`faults="skip"`).
    """


class MetricError(AttnvizError, ValueError):
    """A metric cannot be computed, or two numbers cannot be compared.

    Cause: masks that are empty or full, one class only, different protocols, or a number of
        images too small for an interval.
    Next: leave those images out, or compare what was measured the same way; the message
        says which.
    """


class GuidanceError(AttnvizError, RuntimeError):
    """A guided training cannot work as configured.

    Cause: a loss that cannot move the model (all frozen, no positive map), a map that died,
        weights that are not finite, a run that cannot go on.
    Next: follow the message: another `--layer`, a smaller `--weight`, a lower `--lr`, more
        warm-up; the last good checkpoint is kept and named.
    """


class OutputExists(AttnvizError, FileExistsError):
    """A file would be overwritten; pass `force=True` or `--force`.

    Cause: an earlier result has that name, and results are never overwritten unasked.
    Next: another `--out`, or `--force` (`force=True`).
    """


class EnvironmentFault(AttnvizError, ImportError):
    """An installed package is missing or broken.

    Cause: a package was removed, is too old, or was installed without its data.
    Next: `attnviz doctor` names it and the command that mends it.
    """


class AttnvizWarning(UserWarning):
    """Something is doubtful; the message says what to do about it.

    Cause: attention that was only partly read, scales that may mislead, data that look like
        another kind.
    Next: do as the message says, or silence it: `warnings.simplefilter("ignore",
        attnviz.AttnvizWarning)`.
    """


class FlatMapWarning(AttnvizWarning):
    """A map says the same everywhere: the method found no evidence, which is no error.

    Cause: the layer does not reach the score, all values were negative and cut, or the
        model is indifferent.
    Next: `signed=True`, an earlier layer, another target; `.github/docs/blue-map.md`.
    """


def optional(name: str, extra: str) -> ModuleType:
    """Import a package that an extra of attnviz brings.

    Raises:
        EnvironmentFault: it is not installed, or does not import.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise EnvironmentFault(
            f"{name} cannot be imported ({error}); `pip install 'attnviz[{extra}]'` brings it"
        ) from error


def did_you_mean(name: str, known: Iterable[str], *, most: int = 3) -> str:
    """Return `; did you mean 'a' or 'b'?` for the nearest known names, or an empty string."""
    table = {k.lower(): k for k in known}
    near = difflib.get_close_matches(str(name).lower(), list(table), n=most, cutoff=0.55)
    if not near:
        return ""
    return "; did you mean " + " or ".join(repr(table[n]) for n in near) + "?"
