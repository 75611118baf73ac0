"""One forward and one backward through a model nobody knows, to see what its layers give."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..capturing.modules import eager
from ..capturing.outputs import pick
from ..capturing.preserve import preserved
from ..errors import AttnvizError, CaptureError, LayoutError, ModelError
from ..targets import logits_of
from .layout import Layout, infer_layout

_ATTENTION = re.compile(r"(^|\.)(attn|attention|self_attn|self_attention)\d*(\.|$)|attention", re.I)


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
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    calls: int
    layout: Layout | None
    why: str
    live: bool
    positions: int


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
            return _probe(module, image)
        except (AttnvizError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # the model may raise anything on an input it does not take
            first = (str(error).strip().splitlines() or [""])[0][:120]
            failures.append(f"{tuple(image.shape)}: {type(error).__name__}: {first}")
    raise ModelError(
        f"{type(module).__name__} does not run on the inputs tried ({'; '.join(failures[:3])}); "
        "pass layer=..., or example=tensor with an input that it takes"
    )


def _examples(module: Any) -> Iterator[Tensor]:
    weight = next((p for p in module.parameters() if p.is_floating_point()), None)
    device = weight.device if weight is not None else torch.device("cpu")
    dtype = weight.dtype if weight is not None else torch.float32
    first = next((m for m in module.modules() if isinstance(m, nn.Conv2d)), None)
    channels = first.in_channels if first is not None else 3
    generator = torch.Generator().manual_seed(0)
    for size in dict.fromkeys([*_stated_sizes(module), (224, 224), (64, 64), (32, 32), (28, 28)]):
        image = torch.randn(2, channels, *size, generator=generator)
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

    def read(part: nn.Module, inputs: Any, output: Any) -> None:
        name = names[part]
        calls[name] = calls.get(name, 0) + 1
        try:
            tensor = pick(output, name)[0]
        except CaptureError:
            return
        outputs.pop(name, None)  # a layer that runs again finishes again
        outputs[name] = tensor

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
    size = (image.shape[-2], image.shape[-1])
    return [
        _describe(module, parts[name], name, tensor, gradient.get(name), calls[name], size)
        for name, tensor in outputs.items()
    ]


def _describe(
    module: nn.Module,
    part: nn.Module,
    name: str,
    tensor: Tensor,
    gradient: Tensor | None,
    calls: int,
    size: tuple[int, int],
) -> Seen:
    layout, why, live, positions = None, "", False, 0
    try:
        layout = infer_layout(module, part, tensor, size, batch=None)
    except LayoutError as error:
        why = str(error)
    if layout is not None:
        spatial = layout.to_spatial(tensor)
        positions = spatial.shape[2] * spatial.shape[3]
        live = gradient is not None and bool(layout.to_spatial(gradient).ne(0).any())
    return Seen(name, type(part).__name__, tuple(tensor.shape), calls, layout, why, live, positions)


def choose(seen: list[Seen], batch: int = 0) -> str | None:
    """Return the last layer with positions whose gradient is not zero by construction, or None.

    Parts of attention are left out: their queries, keys and values are no picture of the input.
    Of modules that hand on one tensor the outermost is taken.
    """
    usable = [
        s
        for s in seen
        if s.live and s.positions > 1 and s.calls == 1 and not _ATTENTION.search(s.name)
    ]
    return usable[-1].name if usable else None
