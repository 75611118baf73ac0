"""One forward and one backward through a model nobody knows, to see what its layers give."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import AttnvizError, CaptureError, LayoutError, ModelError
from ..hooks.capture import quantised_part
from ..hooks.checkpointing import without_checkpointing
from ..hooks.modules import eager
from ..hooks.outputs import maps_of, pick, put, split
from ..hooks.preserve import preserved
from ..hooks.threads import own_thread, takes_hooks
from ..inputs import Inputs, mismatch, samples_in, size_of
from .layout import Layout, infer_layout
from .outputs import read_from
from .views import views_of
from .ways import Way, beside, halves, maps_in, origin, pyramid, stage_rank, unshared, weightless

#: cosine from which two vectors of mean gradients make one map
_ALIKE = 0.9999


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
            no weights behind them; of a dense output, whether it is that output, before or after
            steps without weights.
        dense: whether the model's output has positions itself (masks, boxes, queries).
        places: whether its channels' mean gradients tell one half of a dense output from the
            other; behind the last bend of a network they do not.
        beside: whether it is one of several ways through a block whose output has its grid: a
            shortcut, a gate, or what a shortcut passes by; or a level of a pyramid, and what not
            all levels come from.
        stage: 2 for a part of the whole model and for what holds several layers with weights, 1
            for what has other parts, 0 for a single step.
        level: whether it is one of the maps of several grids that a detector's head is given.
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
    dense: bool
    places: bool
    blind: float
    beside: bool = False
    stage: int = 2
    level: bool = False


def probe(module: nn.Module, example: Inputs | None = None) -> list[Seen]:
    """Run a model once forward and once backward, and list its layers in the order they finished.

    The model is left as it was. The score is a fixed random combination of all logits, or of all
    that an output without logits holds, so a gradient that is exactly zero at every position is
    zero by construction.

    Args:
        module: the model.
        example: inputs as the model takes them; without, random images of the sizes its config
            states or of usual sizes are tried.

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
            why = mismatch(error, image, module)
            if why is not None:
                raise why from error
            first = (str(error).strip().splitlines() or [""])[0][:120]
            failures.append(f"{_shape(image)}: {type(error).__name__}: {first}")
    what = f"{type(module).__name__} does not run on the inputs tried ({'; '.join(failures[:3])})"
    raise ModelError(
        f"{what}; pass layer=..., or example=tensor with an input that it takes",
        command=f"{what}; name a --layer, or inputs that it takes (--resize, --crop; --size)",
    )


def _shape(inputs: Inputs) -> Any:
    if isinstance(inputs, Tensor):
        return tuple(inputs.shape)
    pairs = inputs.items() if isinstance(inputs, Mapping) else enumerate(inputs)
    return {name: tuple(v.shape) for name, v in pairs if isinstance(v, Tensor)}


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


def _called(module: nn.Module, inputs: Inputs) -> Any:
    def traced(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        value = value.detach().clone()
        return value.requires_grad_() if value.is_floating_point() else value

    if isinstance(inputs, Mapping):
        return module(**{name: traced(value) for name, value in inputs.items()})
    if isinstance(inputs, tuple):
        return module(*(traced(value) for value in inputs))
    return module(traced(inputs))


def _probe(module: nn.Module, image: Inputs) -> list[Seen]:
    names = {part: name for name, part in module.named_modules() if name and takes_hooks(part)}
    outputs: dict[str, Tensor] = {}
    calls: dict[str, int] = {}
    made: dict[int, tuple[str, Tensor]] = {}  # which layer a tensor comes from
    given: dict[str, dict[str, tuple[int, ...]]] = {}  # the maps that a layer was given, all calls
    ways: dict[str, Way] = {}  # of layers that return one tensor

    def read(part: nn.Module, inputs: Any, output: Any) -> Any:
        name = names[part]
        calls[name] = calls.get(name, 0) + 1
        sources = {made[id(t)][0]: tuple(t.shape[2:]) for t in maps_in(inputs) if id(t) in made}
        given[name] = {**given.pop(name, {}), **sources}
        several = maps_of(output)
        for key, tensor in several.items():
            source = made.get(id(tensor), ("",))[0]
            # what the part itself made, or a layer that runs for each of them
            if calls.get(source, 0) != 1 or source != split(source)[0]:
                own = f"{name}[{key}]"
                calls[own] = calls[name]
                output = put(output, key, kept(own, tensor))
                made[id(outputs[own])] = own, outputs[own]
        if several:
            return output
        if isinstance(output, Mapping) and len(output) > 1:
            return None  # of several tensors in one output, which one the head reads is open
        try:
            tensor, key = pick(output, name)
        except CaptureError:
            return None
        kept(name, tensor)
        # of the maps that a part returns together each is the layer's that made it
        source = name if key is None else made.get(id(tensor), (name,))[0]
        made[id(outputs[name])] = source, outputs[name]
        if key is None:
            maps = list(maps_in(inputs))
            grids = {tuple(t.shape[2:]) for t in (tensor, *maps)}
            ways[name] = Way(outputs[name].grad_fn, {origin(t) for t in maps}, grids)
        return put(output, key, outputs[name])

    def kept(name: str, tensor: Tensor) -> Tensor:
        outputs.pop(name, None)  # a layer that runs again finishes again
        # a copy goes on, as in `capture`: a layer that hands on what others have read already
        # would otherwise seem to pass their gradient; behind it all is recorded, also where the
        # model itself says no_grad
        torch.set_grad_enabled(True)
        traced = tensor if tensor.requires_grad else tensor.detach().requires_grad_()
        outputs[name] = traced.clone()  # no leaf: what follows may change it in place
        return outputs[name]

    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(preserved(module))
        stack.enter_context(eager(module))
        stack.enter_context(without_checkpointing(module))
        for part in names:
            stack.callback(part.register_forward_hook(own_thread(read)).remove)
        aims, dense = read_from(_called(module, image))
        generator = torch.Generator().manual_seed(1)
        if not any(aim.requires_grad for aim in aims):
            raise CaptureError(
                quantised_part(module)
                or f"the output of {type(module).__name__} has no gradient: it is "
                f"{', '.join(sorted({str(aim.dtype) for aim in aims}))}, made by a step without "
                "one (argmax, a threshold, detach, numpy). Explain the scores before that step"
            )
        score = torch.stack([
            (aim * torch.randn(aim.shape[1:], generator=generator).to(aim)).sum() for aim in aims
        ]).sum()  # fmt: skip
        traced = [name for name, tensor in outputs.items() if tensor.requires_grad]
        if not traced:
            raise CaptureError(
                f"no layer of {type(module).__name__} could be read while it ran: it runs a copy "
                "of its network, or a graph exported or traced from one. Explain the network "
                "itself, as an eager nn.Module"
            )
        gradients = torch.autograd.grad(
            score, [outputs[n] for n in traced], allow_unused=True, retain_graph=dense
        )
        parted = halves(aims, {n: outputs[n] for n in traced}) if dense else {}
    ends = weightless(aims, outputs) if dense else set()
    gradient = dict(zip(traced, gradients, strict=True))
    parts = dict(module.named_modules())
    parts |= {name: parts[split(name)[0]] for name in outputs}
    whole = [n for n in outputs if n == split(n)[0]]
    weighted = [n for n in whole if next(parts[n].parameters(recurse=False), None) is not None]
    size, batch = size_of(image, module), samples_in(image)
    odd = [n for n, t in outputs.items() if t.ndim > 2 and t.shape[0] != batch]
    views = views_of(module, image, odd) if odd else {}
    done = 0
    seen = []
    for name, tensor in outputs.items():
        done += name in weighted
        layout, why = _layout(module, parts[name], tensor, size, batch * views.get(name, 1))
        live, positions, places = False, 0, True
        if layout is not None:
            spatial = layout.to_spatial(tensor)
            positions = spatial.shape[2:].numel()
            slope = gradient.get(name)
            live = slope is not None and bool(layout.to_spatial(slope).ne(0).any())
            if name in parted:
                first, second = (layout.to_spatial(g).flatten(2).mean(2) for g in parted[name])
                places = bool((F.cosine_similarity(first, second) < _ALIKE).any())
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
                classes=name in ends
                if dense
                else done == len(weighted) and channels == aims[0].shape[-1],
                dense=dense,
                places=places,
                blind=0.0,
            )
        )
    around: set[str] = set()
    if dense and all(aim.ndim == 3 for aim in aims):  # boxes or queries, no masks
        found = pyramid(given, {s.name for s in seen if s.live and s.calls == 1})
        seen = [replace(s, level=s.name in found) for s in seen]
        around = unshared({s.name for s in seen}, found, ways)
    around |= beside(
        {s.name: s.shape[2:] for s in seen if s.calls == 1 and len(s.shape) == 4}, ways
    )
    seen = [
        replace(s, beside=s.name in around, stage=stage_rank(s.name, parts[s.name])) for s in seen
    ]
    hidden = 0
    for place in range(len(seen) - 1, -1, -1):
        one = seen[place] = replace(seen[place], blind=hidden / max(len(weighted), 1))
        hidden += one.name in weighted and one.layout is None and len(one.shape) > 2
    return seen


def _layout(
    module: nn.Module,
    part: nn.Module,
    tensor: Tensor,
    size: tuple[int, ...] | None,
    batch: int,
) -> tuple[Layout | None, str]:
    try:
        return infer_layout(module, part, tensor, size, batch=batch), ""
    except LayoutError as error:
        return None, str(error)
