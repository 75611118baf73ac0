"""Run maps of attention: one forward pass, and one backward pass for each class, serve all."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ...errors import AttnvizWarning, MethodError
from ...registry import Entry
from .. import RawMaps, Request, taken_by
from .reading import Reading, read


def run(request: Request, entries: Sequence[Entry]) -> list[RawMaps]:
    """Compute maps of attention; see `attnviz.methods` for the types.

    Raises:
        AttentionUnavailable: no attention among patches was found.
        MethodError: an option that no method takes, a method that does not apply to the model.
    """
    if request.signed is not None:
        raise MethodError("maps of attention have no signed form; leave signed=None")
    reading = None
    sharing = [e for e in entries if not e.meta["own_pass"]]
    if sharing:
        reading = read(
            request,
            gradients=any(e.meta["needs_gradient"] for e in sharing),
            keep=max((e.meta["keep"] for e in sharing), key=_KEPT.index),
            tokens=any(e.meta["needs_tokens"] for e in sharing),
        )
    found: list[RawMaps] = []
    for entry in entries:
        options = taken_by(entry, request.options)
        specific = {"class_specific": bool(entry.meta["needs_gradient"])}
        if entry.meta["own_pass"]:
            done, maps = entry.fn(request, **options)
            found.append(done.raw_maps(entry, "input", maps, specific))
            continue
        assert reading is not None
        for layer, part, maps in run_on(reading, entry, request, options):
            facts = {
                **specific,
                "layers": [s.name for s in part.sites],
                "prefix_tokens": part.last.prefix,
            }
            found.append(part.done.raw_maps(entry, layer, maps, facts))
    return found


#: what is kept of each attention, from the least to the most
_KEPT = ("qk", "qkv", "all")


def run_on(
    reading: Reading, entry: Entry, request: Request, options: dict[str, Any]
) -> Iterator[tuple[str, Reading, list[Tensor]]]:
    """Yield (layer, what it was read from, K maps (B, h, w)) of one method."""
    for layer, part in _layers(reading, entry, request):
        # q and k carry a graph for the gradients; rows computed from them need none
        with torch.set_grad_enabled(request.create_graph):
            maps = _maps(part, entry, options)
        yield layer, part, maps


def _layers(reading: Reading, entry: Entry, request: Request) -> list[tuple[str, Reading]]:
    """Return what a method is run on: each layer asked for, or all layers together."""
    if not entry.meta["per_layer"]:
        if reading.left_out and not request.layers:
            names = ", ".join(f"{s.name} ({s.kind})" for s in reading.left_out[:3])
            warnings.warn(
                f"{entry.name} leaves out {len(reading.left_out)} attention layers of "
                f"{type(request.model).__name__}, such as {names}: they are not among patches of "
                "one picture. Name layers with layer=[...] to say that this is meant",
                AttnvizWarning,
                stacklevel=2,
            )
        names = [s.name for s in reading.sites]
        label = names[0] if len(names) == 1 else f"{names[0]} ... {names[-1]}"
        return [(label, reading)]
    sites = reading.sites if request.layers else reading.sites[-1:]
    return [(site.name, replace(reading, sites=(site,))) for site in sites]


def _maps(reading: Reading, entry: Entry, options: dict[str, Any]) -> list[Tensor]:
    """Return maps (B, h, w), one for each column; the same for all where no class matters."""
    same = True
    if not entry.meta["needs_gradient"] and len(reading.columns) > 1 and "row" not in options:
        rows = [reading.start(None, number)[0] for number in range(len(reading.columns))]
        # a head that reads several tokens may read them otherwise for each class
        same = all(torch.equal(rows[0], other) for other in rows[1:])
    if not entry.meta["needs_gradient"] and same:
        return [entry.fn(reading, 0, **options)] * len(reading.columns)
    return [entry.fn(reading, number, **options) for number in range(len(reading.columns))]
