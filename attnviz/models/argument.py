"""What a `model` argument stands for: a module, a name, or what was loaded."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import nn

from ..errors import AttnvizError, MethodError
from ..hooks.modules import unwrap
from .loaded import LoadedModel
from .loading import load


def device_of(module: nn.Module) -> torch.device:
    """Return where a model's first weights lie."""
    first = next(itertools.chain(module.parameters(), module.buffers()), None)
    return torch.device("cpu") if first is None else first.device


def dtype_of(module: nn.Module) -> torch.dtype:
    """Return the type of a model's first floating weights."""
    for tensor in module.parameters():
        if tensor.is_floating_point():
            return tensor.dtype
    return torch.float32


def half_of(module: nn.Module) -> torch.dtype:
    """Return the half precision that a model's device computes in autocast.

    Raises:
        MethodError: the weights are no float32, of which autocast makes halves.
    """
    own, device = dtype_of(module), device_of(module)
    if own is not torch.float32:
        what = f"runs a float32 model in half precision, and the weights of {type(module).__name__}"
        what += f" are {str(own).removeprefix('torch.')}"
        raise MethodError(
            f"amp=True {what}; leave it out, or convert the model: model.float()",
            command=f"--amp {what}; leave it out",
        )
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.float16
    return torch.bfloat16


def resolve_model(model: Any, device: Any = None) -> tuple[nn.Module, LoadedModel | None]:
    """Return the network that a `model` argument stands for, and what was loaded, if anything.

    Args:
        model: an `nn.Module`, a name, a `LoadedModel`, or None for the embedded model.
        device: for a model loaded by name; a module stays where it is.

    Raises:
        AttnvizError: it is none of these, or a module that is on another device.
    """
    loaded, module = None, model
    if model is None or isinstance(model, str):
        loaded = load(model, device=device)
    elif isinstance(model, LoadedModel):
        loaded = model
    elif not isinstance(model, nn.Module):
        raise AttnvizError(
            f"model is an nn.Module, a name such as 'torchvision:resnet50', or what "
            f"attnviz.load returns; got {type(model).__name__}"
        )
    module = unwrap(module if loaded is None else loaded.module)
    if device is not None and loaded is None:
        there, wanted = device_of(module), torch.device(device)
        if there.type != wanted.type or wanted.index not in (None, there.index):
            raise AttnvizError(
                f"the model is on {there}, device={device!r} was asked for; move it first: "
                f"model.to({str(device)!r}) (explain leaves your model where it is)"
            )
    return module, loaded
