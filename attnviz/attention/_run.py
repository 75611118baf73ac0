"""Run maps of attention: one forward pass, and one backward pass for each class, serve all."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..errors import AttnvizError, AttnvizWarning, MethodError, did_you_mean
from ..methods import RawMaps, Request
from ..registry import Entry
from .maps._reading import Reading, read
from .tap._fold import wide


def run(request: Request, entries: Sequence[Entry]) -> list[RawMaps]:
    """Compute maps of attention; see `attnviz.methods` for the types.

    Raises:
        AttentionUnavailable: no attention among patches was found.
        MethodError: an option that no method takes, a method that does not apply to the model.
    """
    options = [_options_of(request, entry) for entry in entries]
    _check_options(request, entries)
    reading = read(
        request,
        gradients=any(e.meta["needs_gradient"] for e in entries),
        tokens=any(e.meta["needs_tokens"] for e in entries),
    )
    for score in reading.scores:
        if not bool(torch.isfinite(score.detach()).all()):
            raise AttnvizError(
                "the model's output is not finite (NaN or infinity); check the weights and the "
                "preprocessing"
            )
    found: list[RawMaps] = []
    for entry, chosen in zip(entries, options, strict=True):
        for layer, part in _layers(reading, entry, request):
            values = _maps(part, entry, chosen)
            found.append(_raw(reading, entry, layer, values, request))
    return found


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


def _maps(reading: Reading, entry: Entry, options: dict) -> Tensor:
    """Return maps (B * columns, h, w), the columns of one image side by side."""
    numbers = range(len(reading.columns)) if entry.meta["needs_gradient"] else range(1)
    maps = [wide(entry.fn(reading, number, **options)) for number in numbers]
    maps = maps * (len(reading.columns) // len(maps))
    return torch.stack(maps, 1).flatten(0, 1)


def _raw(reading: Reading, entry: Entry, layer: str, values: Tensor, request: Request) -> RawMaps:
    score = wide(torch.stack(reading.scores, 1).flatten())
    if not request.create_graph:
        values, score = values.detach(), score.detach()
    columns = reading.columns
    site = reading.sites[-1]
    return RawMaps(
        entry.name, layer, values, score,
        tuple(d for row in zip(*(c.descriptions for c in columns), strict=True) for d in row),
        tuple(t for row in zip(*(c.labels for c in columns), strict=True) for t in row),
        entry.meta["units"],
        {
            "layers": [s.name for s in reading.sites],
            "class_specific": bool(entry.meta["needs_gradient"]),
            "prefix_tokens": site.prefix,
        },
    )  # fmt: skip


def _accepts(entry: Entry) -> set[str]:
    return {
        name
        for name, p in inspect.signature(entry.fn).parameters.items()
        if p.kind is p.KEYWORD_ONLY
    }


def _options_of(request: Request, entry: Entry) -> dict:
    return {k: v for k, v in request.options.items() if k in _accepts(entry)}


def _check_options(request: Request, entries: Sequence[Entry]) -> None:
    if request.signed is not None:
        raise MethodError("maps of attention have no signed form; leave signed=None")
    known = set().union(*(_accepts(e) for e in entries))
    for name in request.options:
        if name not in known:
            names = ", ".join(e.name for e in entries)
            raise MethodError(
                f"option {name!r} is not known to {names}{did_you_mean(name, known)} "
                f"Options: {', '.join(sorted(known)) or 'none'}"
            )
