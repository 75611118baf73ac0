"""Which layer to look at when none is given, and the table of all layers."""

from __future__ import annotations

import threading
import weakref
from typing import Any, NamedTuple

from torch import nn

from ..errors import LayerNotFound
from ..hooks.capture import quantised_part
from ..hooks.modules import unwrap
from ..inputs import Inputs
from .choosing import choose, levels
from .families import static_layer, static_levels
from .outputs import reading, stated
from .probing import Seen, probe

_lock = threading.Lock()
#: model -> (which of its outputs are the logits, see `stated`; the layer). Without the width where
#: the output is one tensor: no labels tell it from another
_chosen: weakref.WeakKeyDictionary[nn.Module, tuple[Any, str]] = weakref.WeakKeyDictionary()
#: model -> the levels of its pyramid, as the probing run has shown them
_levels: weakref.WeakKeyDictionary[nn.Module, tuple[str, ...]] = weakref.WeakKeyDictionary()


class LayerRow(NamedTuple):
    """One row of the table of layers.

    Attributes:
        name: dotted name, as `layer=` takes it.
        type: class name.
        shape: of the output, without the batch; empty where the layer gives no tensor.
        note: its layout, or why no map can be made from it; the default layer is marked.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    note: str


def default_layer(module: nn.Module, example: Inputs | None = None) -> str:
    """Return the layer whose map says most of the whole decision: the last one with positions.

    For a network that averages its last feature map, that feature map (CAM is exact there). For a
    network that reads a class token, the last block's first norm: behind it, patches get no
    gradient, and a map would be zero by construction. For a network whose output has positions
    itself (masks, boxes), the end of its encoder, never that output. Known families are read off
    the model's structure; others are run once. The answer is kept as long as the model lives, for
    the output that is read (`attnviz.models.reading`).

    Args:
        module: the model; wrappers (compiled, DataParallel) are seen through.
        example: inputs, as the model takes them, for a model of no known family.

    Returns:
        The layer's dotted name.

    Raises:
        LayerNotFound: no layer has positions that the output depends on.
        ModelError: a model of no known family runs on none of the inputs tried.
    """
    module = unwrap(module)
    with _lock:
        known = _chosen.get(module)
    said = stated()
    if known is not None and known[0] in (said, said[:1]):
        return known[1]
    name, seen = static_layer(module), []
    if name is None:
        with reading() as read:
            seen = probe(module, example)
        said = said[:1] if read.path == "" else said
        name = choose(seen)
    if name is None:
        what = (
            f"{type(module).__name__} has no layer with positions (h, w) that its output depends "
            f"on, so there is nothing to draw a map from{_why_none(module, seen)}"
        )
        table = "`attnviz layers MODEL` lists all layers with their output shapes"
        raise LayerNotFound(
            f"{what}; pass layer=... if there is one. {table}",
            command=f"{what}; say it with --layer if there is one. {table}",
        )
    with _lock:
        _chosen[module] = said, name
        _levels[module] = levels(seen) if seen else static_levels(module)
    return name


def default_layers(module: nn.Module, example: Inputs | None = None) -> tuple[str, ...]:
    """Return the levels of a detector's feature pyramid; of all other models the default layer.

    A box is read from one level, or from a few: which, depends on its size. Those of torchvision
    are known; of others they are the maps of several grids that one part, the head, is given.

    Args:
        module, example: as in `default_layer`, which says what is raised.
    """
    name = default_layer(module, example)
    with _lock:
        return _levels.get(unwrap(module)) or (name,)


def _why_none(module: nn.Module, seen: list[Seen]) -> str:
    """Say why no layer will do, as far as it is known."""
    quantised = quantised_part(module)
    if quantised is not None:
        return f": {quantised} with layer=..."
    folded = next((s.why for s in seen if "folds" in s.why), None)
    if folded is not None:
        return f": {folded}"
    if any(s.positions > 1 for s in seen) and not any(s.live and s.positions for s in seen):
        return (
            ": its layers have positions, and nothing of the output's gradient comes to them (it "
            "is cut by detach, by no_grad or by a step outside of torch)"
        )
    return ""


def list_layers(module: nn.Module, example: Inputs | None = None) -> list[LayerRow]:
    """Return the table of layers in the order in which they finish, from one probing run.

    Args:
        module: the model.
        example: inputs, as the model takes them; without, random images of usual sizes are tried.

    Raises:
        ModelError: the model runs on none of the inputs.
    """
    module = unwrap(module)
    seen = probe(module, example)
    name = static_layer(module)
    chosen = (levels(seen) if name is None else static_levels(module)) or (name or choose(seen),)
    return [
        LayerRow(s.name, s.kind, s.shape[1:], ("default; " if s.name in chosen else "") + _note(s))
        for s in seen
    ]


def _note(s: Seen) -> str:
    if s.layout is None:
        return "no positions" if len(s.shape) < 3 else s.why.split(": ", 1)[-1].split(";")[0]
    if s.positions == 1:
        return "a single position"
    notes = [s.layout.describe()]
    if s.calls > 1:
        notes.append(f"runs {s.calls} times")
    if s.dense and s.classes:
        notes.append("the model's own output")
    if not s.live:
        notes.append("gradient zero by construction")
    return ", ".join(notes)
