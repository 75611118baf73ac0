"""Run class activation maps: one forward and one tail backward serve all methods and layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...errors import MethodError
from ...hooks import wide
from ...models import default_layer
from ...models.layers import default_layers
from ...registry import Entry
from .. import RawMaps, Request, rectifies, taken_by
from ..forward import ForwardPass, forward_pass
from ._augment import augmented
from ._stages import at_finest
from .eigencam import eigen_smoothed

#: a pass, its maps by layer (K of (B, h, w) each), and facts about them
OwnMaps = tuple[ForwardPass, Mapping[str, Sequence[Tensor]], Mapping[str, Any]]


def read_own(request: Request, *, gradients: bool = True, any_rank: bool = False) -> ForwardPass:
    """Run the model once for a method that runs it itself; without layers, at the default.

    Args:
        request: what to explain.
        gradients: record what follows the layers.
        any_rank: the method takes signals and volumes, too.

    Raises:
        MethodError: positions of another rank than (h, w), for a method that takes no other.
    """
    layers = list(request.layers or [default_layer(request.model, request.example)])
    done = forward_pass(request, layers=layers, gradients=gradients)
    for name, activation in done.activations.items():
        if activation.ndim != 4 and not any_rank:
            raise MethodError(
                f"this method explains pictures: positions (h, w). Layer {name!r} gives "
                f"{tuple(activation.shape)}; for signals, volumes and video use gradcam, "
                "gradcam++, hirescam, layercam, xgradcam, eigencam, eigengradcam, fem, kpcacam, "
                "finercam or shapleycam"
            )
    return done


def read_layers(request: Request, entries: Sequence[Entry]) -> ForwardPass:
    """Run the model once and read all that some class activation maps need.

    Args:
        request: what to explain; without layers, at the model's default ones.
        entries: the methods.

    Raises:
        MethodError: CAM on a model without a GAP + linear head behind the layer.
    """
    wants_head = [e.name for e in entries if e.meta["needs_linear_head"]]
    layers = list(request.layers or default_layers(request.model, request.example))
    done = forward_pass(
        request,
        layers=layers,
        gradients=any(e.meta["needs_gradient"] for e in entries),
        heads=bool(wants_head) or request.classes is not None or request.create_graph,
        views=not request.create_graph,
    )
    for name in layers if wants_head else ():
        if name not in done.heads:
            raise MethodError(
                f"{', '.join(wants_head)} needs logits that are one linear layer on the average of "
                f"layer {name!r}, and in {type(request.model).__name__} they are not. Use gradcam "
                "(the same map up to a factor where such a head exists), hirescam, or the layer "
                "that is average-pooled"
            )
    return done


def apply_cam(
    entry: Entry,
    activation: Tensor,
    gradient: Tensor | None,
    *,
    signed: bool | None = None,
    options: Mapping[str, Any] | None = None,
) -> Tensor:
    """Return a method's map (B, h, w) of an activation and its gradient, both (B, C, h, w).

    Positions may have any number of axes: no CAM knows which of them are neighbours, so those of
    a signal or volume are put in one row and the map is laid out like them again. Maps of
    half-precision models are computed in float32: products of halves underflow.

    Args:
        entry: the method.
        activation, gradient: of one layer; the gradient None where the method needs none.
        signed: keep negative values; None is the method's own default.
        options: of which it takes its own. `eigen_smooth=True` replaces the sum over channels by
            their first principal component (pytorch-grad-cam's, which centres them).

    Raises:
        MethodError: the method has no signed form; its map is no sum over channels.
    """
    make = partial(entry.fn, **taken_by(entry, options or {}))
    if options and options.get("eigen_smooth"):
        if not entry.meta["additive"]:
            raise MethodError(f"{entry.name} is a principal component already; no eigen_smooth=")
        make = partial(_smoothed, make)
    activation, gradient = wide(activation), None if gradient is None else wide(gradient)
    if activation.ndim == 4:
        maps = make(activation, gradient)
    else:
        row = activation.flatten(2)[:, :, None]
        slope = None if gradient is None else gradient.flatten(2)[:, :, None]
        maps = make(row, slope)[:, 0].unflatten(1, activation.shape[2:])
    return maps.relu() if rectifies(entry, signed) else maps


def _smoothed(
    make: Callable[[Tensor, Tensor | None], Tensor], activation: Tensor, gradient: Tensor | None
) -> Tensor:
    slope = None if gradient is None else gradient.flatten(0, 1)[:, None]
    return eigen_smoothed(make(activation.flatten(0, 1)[:, None], slope).view(activation.shape))


def signed_maps(done: ForwardPass, entry: Entry) -> dict[str, list[Tensor]]:
    """Return a method's maps of a pass with their sign, by layer K of (B, h, w)."""
    maps: dict[str, list[Tensor]] = {name: [] for name in done.activations}
    for number in range(len(done.columns)):
        for name, gradient in done.gradients(number, read_off=False).items():
            with torch.set_grad_enabled(done.request.create_graph):
                maps[name].append(apply_cam(entry, done.activations[name], gradient, signed=True))
    return maps


def run(request: Request, entries: Sequence[Entry]) -> list[RawMaps]:
    """Compute class activation maps; see `attnviz.methods` for the types.

    Raises:
        MethodError: CAM on a model without a GAP + linear head behind the layer; a layer where
            the gradient is zero by construction.
        LayoutError: the layer's output has no spatial layout.
    """
    if request.options.get("augment"):
        return augmented(request, lambda copy: run(copy, entries))
    found = {e.name: _own(request, e) for e in entries if e.meta["own_pass"]}
    sharing = [e for e in entries if not e.meta["own_pass"]]
    if sharing:
        found |= _shared(request, sharing)
    return [maps for entry in entries for maps in found[entry.name]]


def _own(request: Request, entry: Entry) -> list[RawMaps]:
    drop = rectifies(entry, request.signed)
    done, maps, facts = entry.fn(request, **taken_by(entry, request.options))
    return [
        done.raw_maps(
            entry,
            layer,
            [wide(m.relu() if drop else m) for m in values],
            {"layout": done.layouts[layer].describe(), **facts} if layer in done.layouts else facts,
        )
        for layer, values in maps.items()
    ]


def _shared(request: Request, entries: Sequence[Entry]) -> dict[str, list[RawMaps]]:
    """Run the methods that share one pass; return each one's maps by its name."""
    done = read_layers(request, entries)
    maps: dict[tuple[str, str], list[Tensor]] = {}
    wants_gradient = any(e.meta["needs_gradient"] for e in entries)
    joined = request.layers is None and len(done.activations) > 1
    for number in range(len(done.columns)):
        gradients = done.gradients(number, zeros=joined) if wants_gradient else {}
        for entry in entries:
            for name, activation in done.activations.items():
                with torch.set_grad_enabled(request.create_graph):
                    values = apply_cam(
                        entry,
                        activation,
                        gradients.get(name),
                        signed=request.signed,
                        options=request.options,
                    )
                maps.setdefault((entry.name, name), []).append(values)
    found = {}
    for entry in entries:
        read = entry.meta["needs_gradient"] or entry.meta["needs_linear_head"]
        facts: dict[str, Any] = {} if read else {"class_specific": False}
        if joined:
            levels = {name: maps[entry.name, name] for name in done.activations}
            found[entry.name] = [_joined(done, entry, levels, facts)]
            continue
        found[entry.name] = [
            done.raw_maps(
                entry,
                name,
                maps[entry.name, name],
                {"layout": done.layouts[name].describe(), **facts},
            )
            for name in done.activations
        ]
    return found


def _joined(
    done: ForwardPass, entry: Entry, levels: Mapping[str, list[Tensor]], facts: Mapping[str, Any]
) -> RawMaps:
    """Return the maximum of the maps of several levels, each scaled to the largest of them.

    Where one level alone has a map, as for a box that is read from it, that map is unchanged.
    """
    names = list(levels)
    values = []
    for column in range(len(done.columns)):
        finest = at_finest({name: maps[column] for name, maps in levels.items()})
        maps = torch.stack(list(finest.values()))
        most = maps.abs().amax((2, 3), keepdim=True)
        # a level of one cell covers all of the picture: it counts where no other level has a map
        cells = torch.tensor([levels[name][column][0].numel() for name in names])
        one = (cells == 1).to(most.device)[:, None, None, None] & (most[cells > 1] > 0).any(0)
        maps, most = maps.masked_fill(one, 0), most.masked_fill(one, 0)
        scaled = maps / torch.where(most > 0, most, 1.0) * most.amax(0)
        values.append(scaled.gather(0, scaled.abs().argmax(0, keepdim=True))[0])
    said = {
        "layers": names,
        "fused": f"maximum of {len(names)} levels, each scaled to the largest of them",
        "layout": done.layouts[names[0]].describe(),
    }
    name = f"{names[0]} ... {names[-1]} (maximum)"
    return done.raw_maps(entry, name, values, {**said, **facts})
