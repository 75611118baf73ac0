"""One forward and one backward through a model nobody knows, to see what its layers give."""

from __future__ import annotations

import copy
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import AttnvizError, CaptureError, LayoutError, ModelError
from ..hooks.modules import eager
from ..hooks.outputs import pick, put
from ..hooks.preserve import preserved
from ..inputs import size_of
from .layout import Layout, infer_layout
from .outputs import logits_of

#: paths inside attention: queries, keys and values are no picture of the input
_ATTENTION = re.compile(r"(^|\.)(\w+_)?(attn|attention)(_pool|_layer|_out|_in)?\d*(\.|$)", re.I)


@dataclass(frozen=True)
class Seen:
    """What one probing forward showed of a layer.

    Attributes:
        name: dotted name.
        kind: class name.
        shape: of the output, with the probe's batch.
        calls: how often the layer ran.
        layout: of its output, or None.
        why: why there is no layout.
        live: whether any position passes a gradient of the logits.
        positions: number of positions (h * w), 0 without a layout.
        classes: whether these are maps of the classes already: as many channels as logits, and
            no weights behind them.
        blind: share of the model's layers with weights that finish behind it and give something
            of unknown layout (no plain vector), 0 to 1.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    calls: int
    layout: Layout | None
    why: str
    live: bool
    positions: int
    classes: bool
    blind: float


def probe(module: nn.Module, example: Tensor | None = None) -> list[Seen]:
    """Run a model once forward and once backward, and list its layers in the order they finished.

    The model is left as it was. The score is a fixed random combination of all logits, so a
    gradient that is exactly zero at every position is zero by construction.

    Args:
        module: the model.
        example: an input; without one, random images of the sizes its config states or of usual
            sizes are tried.

    Raises:
        ModelError: the model runs on none of the inputs.
    """
    failures: list[str] = []
    for image in [example] if example is not None else _examples(module):
        try:
            seen = _probe(module, image)
            if any(layer.live for layer in seen):
                return seen
            # a fresh network may have a head of zeros, and no gradient at all
            return _probe(_awake(module), image)
        except (AttnvizError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # the model may raise anything on an input it does not take
            first = (str(error).strip().splitlines() or [""])[0][:120]
            failures.append(f"{tuple(image.shape)}: {type(error).__name__}: {first}")
    raise ModelError(
        f"{type(module).__name__} does not run on the inputs tried ({'; '.join(failures[:3])}); "
        "pass layer=..., or example=tensor with an input that it takes"
    )


def _awake(module: nn.Module) -> nn.Module:
    """Return a copy of the model in which weights that are zero throughout are small random."""
    twin = copy.deepcopy(module)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, weight in twin.named_parameters():
            if not name.endswith("bias") and not weight.any():
                weight.copy_(0.02 * torch.randn(weight.shape, generator=generator))
    return twin


def _examples(module: Any) -> Iterator[Tensor]:
    weight = next((p for p in module.parameters() if p.is_floating_point()), None)
    device = weight.device if weight is not None else torch.device("cpu")
    dtype = weight.dtype if weight is not None else torch.float32
    first = next((m for m in module.modules() if isinstance(m, nn.Conv2d)), None)
    channels = first.in_channels if first is not None else 3
    generator = torch.Generator().manual_seed(0)
    stated = list(_stated_sizes(module))
    # a size beyond 384 costs gigabytes, and few models insist on it
    sizes = [size for size in stated if max(size) <= 384]
    sizes += [(224, 224), *stated, (64, 64), (32, 32), (28, 28)]
    for size in dict.fromkeys(sizes):
        image = torch.randn(1, channels, *size, generator=generator)
        yield image.to(device=device, dtype=dtype)


def _stated_sizes(module: Any) -> Iterator[tuple[int, int]]:
    owners = [getattr(module, "patch_embed", None), module, getattr(module, "config", None)]
    owners.append(getattr(getattr(module, "config", None), "vision_config", None))
    for owner in owners:
        for name in ("img_size", "image_size"):
            size = getattr(owner, name, None)
            if isinstance(size, int):
                yield size, size
            elif isinstance(size, tuple | list) and len(size) == 2:
                yield int(size[0]), int(size[1])
    cfg = getattr(module, "pretrained_cfg", None) or {}
    size = cfg.get("input_size") if hasattr(cfg, "get") else getattr(cfg, "input_size", None)
    if size:
        yield tuple(size[-2:])


def _probe(module: nn.Module, image: Tensor) -> list[Seen]:
    names = {part: name for name, part in module.named_modules() if name}
    outputs: dict[str, Tensor] = {}
    calls: dict[str, int] = {}
    thread = threading.get_ident()

    def read(part: nn.Module, inputs: Any, output: Any) -> Any:
        if threading.get_ident() != thread:
            return None  # another thread's forward through the same model
        name = names[part]
        calls[name] = calls.get(name, 0) + 1
        if isinstance(output, Mapping) and len(output) > 1:
            return None  # of several tensors in one output, which one the head reads is open
        try:
            tensor, key = pick(output, name)
        except CaptureError:
            return None
        outputs.pop(name, None)  # a layer that runs again finishes again
        # a copy goes on, as in `capture`: a layer that hands on what others have read already
        # would otherwise seem to pass their gradient
        outputs[name] = tensor.clone()
        return put(output, key, outputs[name])

    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(preserved(module))
        stack.enter_context(eager(module))
        for part in names:
            stack.callback(part.register_forward_hook(read).remove)
        logits = logits_of(module(image.detach().clone().requires_grad_()))
        generator = torch.Generator().manual_seed(1)
        weights = torch.randn(logits.shape[1:], generator=generator).to(logits)
        traced = [name for name, tensor in outputs.items() if tensor.requires_grad]
        gradients = torch.autograd.grad(
            (logits * weights).sum(), [outputs[n] for n in traced], allow_unused=True
        )
    gradient = dict(zip(traced, gradients, strict=True))
    parts = dict(module.named_modules())
    weighted = [n for n in outputs if next(parts[n].parameters(recurse=False), None) is not None]
    done = 0
    seen = []
    for name, tensor in outputs.items():
        done += name in weighted
        layout, why = _layout(module, parts[name], tensor, image)
        live, positions = False, 0
        if layout is not None:
            spatial = layout.to_spatial(tensor)
            positions = spatial.shape[2:].numel()
            slope = gradient.get(name)
            live = slope is not None and bool(layout.to_spatial(slope).ne(0).any())
        first = layout is None or layout.kind == "channels_first"
        channels = tensor.shape[1 if first and tensor.ndim > 1 else -1]
        seen.append(
            Seen(
                name=name,
                kind=type(parts[name]).__name__,
                shape=tuple(tensor.shape),
                calls=calls[name],
                layout=layout,
                why=why,
                live=live,
                positions=positions,
                classes=done == len(weighted) and channels == logits.shape[-1],
                blind=0.0,
            )
        )
    hidden = 0
    for place in range(len(seen) - 1, -1, -1):
        one = seen[place] = replace(seen[place], blind=hidden / max(len(weighted), 1))
        hidden += one.name in weighted and one.layout is None and len(one.shape) > 2
    return seen


def _layout(
    module: nn.Module, part: nn.Module, tensor: Tensor, image: Tensor
) -> tuple[Layout | None, str]:
    size = size_of(image, module)
    try:
        return infer_layout(module, part, tensor, size, batch=image.shape[0]), ""
    except LayoutError as error:
        return None, str(error)


def choose(seen: list[Seen]) -> str | None:
    """Return the last layer with positions whose gradient is not zero by construction, or None.

    Parts of attention are left out, and maps of the classes, which have no channels to weigh. Of
    modules that hand on one tensor the outermost is taken. Where most of the network is of unknown
    layout, its stem or patch embedding says nothing of the decision: then there is no default.
    """
    usable = [
        s
        for s in seen
        if s.live and s.positions > 1 and s.calls == 1 and not _ATTENTION.search(s.name)
    ]
    usable = [s for s in usable if not s.classes] or usable
    return usable[-1].name if usable and usable[-1].blind < 0.5 else None
