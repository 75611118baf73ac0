"""The tensor inside what a layer returns, and the same container around another tensor."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import CaptureError

_ONE_OF = re.compile(r"(.+)\[([^\[\]]+)\]")


def split(layer: str) -> tuple[str, str | None]:
    """Return the module's name and the key in `stage4[3]`: one of the maps that `stage4` returns.

    The key is an index or the key of a mapping, None where there is none.
    """
    found = _ONE_OF.fullmatch(layer)
    return (found[1], found[2]) if found else (layer, None)


def maps_of(output: Any) -> dict[Any, Tensor]:
    """Return {key: tensor} of the maps of several grids in what a layer returns, or none."""
    found = {key: value for key, value in _items(output) if _readable(value) and value.ndim > 3}
    same = len({value.ndim for value in found.values()}) == 1
    return found if same and len({value.shape[2:] for value in found.values()}) > 1 else {}


def _items(output: Any) -> Any:
    if isinstance(output, Mapping):
        return output.items()
    return enumerate(output) if isinstance(output, tuple | list) else ()


def wide(tensor: Tensor) -> Tensor:
    """Return the tensor in float32, or as it is if it is float32 or float64 already."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


def _readable(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def pick(output: Any, layer: str) -> tuple[Tensor, Any]:
    """Return the first floating-point tensor of a layer's output, and the key it stands at.

    Layers return a tensor, a tuple or list (Hugging Face blocks), or a mapping. Of maps of several
    grids (HRNet's stages, pyramids) none stands for all, and the layer's name says which:
    `stage4[3]`.

    Raises:
        CaptureError: there is none, none of that name, or it is open which.
    """
    name, wanted = split(layer)
    if wanted is not None:
        items = list(_items(output))
        for key, value in items:
            if str(key) == wanted and _readable(value):
                return value, key
        keys = ", ".join(f"{name}[{key}]" for key, value in items if _readable(value))
        raise CaptureError(
            f"layer {name!r} returns no activation {wanted!r}; there "
            + (f"are {keys}" if keys else f"is none to choose: leave out [{wanted}]")
        )
    if _readable(output):
        return output, None
    several = maps_of(output)
    if several:
        listed = ", ".join(f"{name}[{key}] {tuple(t.shape[1:])}" for key, t in several.items())
        raise CaptureError(
            f"layer {layer!r} returns maps of several sizes, so which to read is open: {listed}; "
            "name one of them so"
        )
    for key, value in _items(output):
        if _readable(value):
            return value, key
    got = f"{output.dtype} tensor" if isinstance(output, Tensor) else type(output).__name__
    raise CaptureError(
        f"layer {layer!r} returns no floating-point tensor (got {got}); choose a layer whose "
        "output is an activation"
    )


def put(output: Any, key: Any, tensor: Tensor) -> Any:
    """Return `output` with the tensor at `key` replaced; the container given is not changed."""
    if key is None:
        return tensor
    if isinstance(output, tuple):
        items = [*output[:key], tensor, *output[key + 1 :]]
        return type(output)(*items) if hasattr(output, "_fields") else type(output)(items)
    changed = copy.copy(output)
    changed[key] = tensor
    return changed
