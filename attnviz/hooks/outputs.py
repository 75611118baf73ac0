"""The tensor inside what a layer returns, and the same container around another tensor."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import CaptureError


def wide(tensor: Tensor) -> Tensor:
    """Return the tensor in float32, or as it is if it is float32 or float64 already."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


def _readable(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def pick(output: Any, layer: str) -> tuple[Tensor, Any]:
    """Return the first floating-point tensor of a layer's output, and the key it stands at.

    Layers return a tensor, a tuple or list (Hugging Face blocks), or a mapping.

    Raises:
        CaptureError: there is none.
    """
    if _readable(output):
        return output, None
    items: Any = ()
    if isinstance(output, Mapping):
        items = output.items()
    elif isinstance(output, tuple | list):
        items = enumerate(output)
    for key, value in items:
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
