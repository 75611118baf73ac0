"""Run perturbation methods: one plain forward, then each method's own passes, image by image."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ...errors import MethodError
from ...hooks import capture
from ...models import Layout, default_layer, infer_layout
from ...registry import Entry
from ...targets import logits_of
from .. import RawMaps, Request, rectifies, taken_by
from ..altered import AlteredGroup, Passes
from ..forward import ForwardPass
from ..heads import HeadProbe, LinearHead
from ..held import one_at_a_time
from .tail import Recorded, Recording, Tail


@dataclass(frozen=True)
class Layer:
    """What a layer gave for a batch, or for a group of its images.

    Attributes:
        name: dotted.
        raw: the activation as the layer returns it.
        activation: (B, C, h, w).
        gradients: (K, B, C, h, w), or None where none were asked for.
        layout: how `raw` is laid out.
        head: the classifier, where it is one linear layer on the activation's mean.
        recorded: what the plain forward gave on its way, where the part behind is run for it.
    """

    passes: Passes
    name: str
    raw: Tensor
    layout: Layout
    gradients: Tensor | None = None
    head: LinearHead | None = None
    recorded: Recorded | None = None

    @cached_property
    def activation(self) -> Tensor:
        values = self.layout.to_spatial(self.raw)
        return values if values.dtype in (torch.float32, torch.float64) else values.float()

    def of(self, group: AlteredGroup) -> Layer:
        """Return the part that belongs to a group of images."""
        gradients = self.gradients
        if gradients is not None:
            gradients = gradients[:, group.images.start : group.images.stop]
        recorded = self.recorded
        if recorded is not None:
            rows = slice(group.images.start, group.images.stop)
            recorded = recorded.of(rows, self.passes.request.batch)
        raw = group.of(self.raw)
        return Layer(self.passes, self.name, raw, self.layout, gradients, self.head, recorded)

    def tail(self, group: AlteredGroup) -> Tail:
        """Return the part of the model behind the layer, to be run by itself."""
        return Tail(self.passes.request.model, self.name, group.inputs, self.recorded)


def run(request: Request, entries: Sequence[Entry]) -> list[RawMaps]:
    """Compute maps by perturbation; see `attnviz.methods` for the types.

    Raises:
        MethodError: inputs that are no pictures, a graph that is asked for.
    """
    if request.create_graph:
        raise MethodError(
            f"{entries[0].name} has no derivative (create_graph=True): it compares scores of "
            "altered pictures. Train on a CAM, such as method='gradcam'"
        )
    held = one_at_a_time(request, entries, run)
    if held is not None:
        return held
    passes = Passes(request, budget=request.options.get("budget"))
    layers = _layers(request, entries, passes)
    found = []
    for entry in entries:
        options, drop = taken_by(entry, request.options), rectifies(entry, request.signed)
        for layer in layers if entry.meta["reads_layer"] else [None]:
            parts = [
                entry.fn(group, layer and layer.of(group), **options) for group in passes.groups()
            ]
            maps = torch.cat(parts, 1)
            found.append(_raw(entry, passes, layer, maps.relu() if drop else maps))
    return found


def _raw(entry: Entry, passes: Passes, layer: Layer | None, maps: Tensor) -> RawMaps:
    done = ForwardPass(passes.request, None, passes.columns, tuple(passes.scores), passes.logits)
    name, meta = (layer.name, {"layout": layer.layout.describe()}) if layer else ("input", {})
    return done.raw_maps(entry, name, list(maps), meta)


def _layers(request: Request, entries: Sequence[Entry], passes: Passes) -> list[Layer]:
    """Run the plain forward; return what the layers asked for gave."""
    if not any(e.meta["reads_layer"] for e in entries):
        if request.layers:
            raise MethodError(
                f"{entries[0].name} reads no layer, it alters the picture; leave layer=None"
            )
        with torch.no_grad():
            passes.first()
        return []
    names = list(request.layers or [default_layer(request.model, request.example)])
    gradients = any(e.meta["needs_gradient"] for e in entries)
    with ExitStack() as stack:
        cap = stack.enter_context(
            capture(request.model, names, gradients=gradients, call=request.call)
        )
        probe = stack.enter_context(HeadProbe(request.model))
        notes = [
            Recording(request.model, n) for n in names if any(e.meta["runs_tail"] for e in entries)
        ]
        for recording in notes:
            stack.enter_context(recording)
        passes.first()
        grads: list[Any] = [None]
        if gradients:
            number = len(passes.columns)
            scores = [c.score(passes.output).sum() for c in passes.columns]
            grads = [cap.gradients(s, retain_graph=i < number - 1) for i, s in enumerate(scores)]
    found = []
    for name, raw in cap.activations.items():
        layout = request.layout or infer_layout(
            request.model, cap.modules[name], raw, request.input_size
        )
        head = _head(probe, layout.to_spatial(raw), passes.output)
        recorded = None
        if notes and head is None:
            recorded = notes[names.index(name)].recorded(passes.output)
        found.append(
            Layer(
                passes,
                name,
                raw,
                layout,
                torch.stack([layout.to_spatial(g[name]) for g in grads]) if gradients else None,
                head,
                recorded,
            )
        )
    passes.output = None  # what it holds is not needed any more
    return found


def _head(probe: HeadProbe, activation: Tensor, output: Any) -> LinearHead | None:
    logits = logits_of(output) if isinstance(output, Tensor) else None
    return None if logits is None or logits.ndim != 2 else probe.head(activation, logits)
