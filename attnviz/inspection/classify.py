"""From what the tap found to what the literature calls it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..attention.tap import Gate, Site
from .mechanism import Mechanism

#: what a gate's weights tell apart -> kind; the first set that is contained in it counts
_GATES = (
    ({"time", "height"}, "spatial & temporal"),
    ({"time", "width"}, "spatial & temporal"),
    ({"time"}, "temporal"),
    ({"branch"}, "branch"),
    ({"channel", "height"}, "channel & spatial"),
    ({"channel", "width"}, "channel & spatial"),
    ({"channel", "token"}, "channel & spatial"),
    ({"height"}, "spatial"),
    ({"width"}, "spatial"),
    ({"token"}, "spatial"),
    ({"channel"}, "channel"),
)


def of_all(sites: Sequence[Gate | Site], *, steps: int | None = None) -> list[Mechanism]:
    """Return the entries of what the tap found; a gate and what it leaves (1 - gate) are one.

    Args:
        sites: in the order of the run.
        steps: see `of_site`.
    """
    entries: list[Mechanism] = []
    last: Gate | Site | None = None
    for site in sites:
        if isinstance(site, Gate) and isinstance(last, Gate) and _complete(last, site):
            entries[-1] = _of_two(entries[-1], last, site)
            last = None
            continue
        entries.append(of_gate(site) if isinstance(site, Gate) else of_site(site, steps=steps))
        last = site
    return entries


def _complete(first: Gate, second: Gate) -> bool:
    """Say whether two gates of one use of a module share each value out between two branches."""
    if (first.name, first.step, first.function, first.target_shape) != (
        second.name, second.step, second.function, second.target_shape
    ) or first.tensor.shape != second.tensor.shape:  # fmt: skip
        return False
    total = first.weights() + second.weights()
    return first.function != "softmax" and torch.allclose(total, total.new_ones(()), atol=1e-6)


def _of_two(entry: Mechanism, first: Gate, second: Gate) -> Mechanism:
    """Highway layers (Srivastava et al. 2015, arXiv:1505.00387) and gated mixtures of two."""
    both = torch.stack([first.weights(), second.weights()], 1)
    return replace(
        entry,
        kind="branch",
        mechanism=f"gate ({first.function}) and its complement",
        attends=f"shares of two branches, {entry.attends}",
        shape=tuple(both.shape[1:]),
        source=both,
    )


def of_gate(gate: Gate) -> Mechanism:
    """Return the entry of a multiplication by weights."""
    axes = set(gate.axes)
    if gate.axes == ("element",):
        axes = {2: {"channel"}, 3: {"channel", "token"}}.get(
            len(gate.target_shape), {"channel", "height", "width"}
        )
    kind = next((name for part, name in _GATES if part <= axes), "channel & spatial")
    shape = tuple(gate.tensor.shape[1:])
    told = " and ".join(gate.axes) if gate.axes != ("element",) else "element"
    return Mechanism(
        gate.name,
        kind,
        f"gate ({gate.function})",
        f"one weight for each {told}",
        shape,
        call=gate.call,
        source=gate,
    )


def of_site(site: Site, *, steps: int | None = None) -> Mechanism:
    """Return the entry of a softmax attention.

    Args:
        site: what the tap found.
        steps: frames or time steps of the model's input, if it has such; 0 if any number.
    """
    heads = f"{site.heads} head{'s' * (site.heads != 1)}"
    made = {"relu": "ReLU"}.get(site.function, site.function)
    shape = (site.heads, site.queries, site.keys)
    grid = site.grid
    tokens = f"{grid[0]} x {grid[1]} patches" if grid else f"{site.keys} tokens"
    if grid and site.prefix:
        tokens += f" and {site.prefix} more token{'s' * (site.prefix > 1)}"
    if site.pooled and site.queries == 1 and steps is not None and steps in (0, site.keys):
        kind, mechanism = "temporal", f"{made} pooling, {heads}"
        attends = f"1 weighted sum over {site.keys} {'frames' if steps else 'time steps'}"
        if site.windows > 1:
            attends += f", in each of {site.windows} sequences"
            shape = (site.windows, *shape)
    elif site.kind == "channel":
        kind, mechanism = "channel", f"channels by channels, {heads}"
        attends = f"{site.queries} channels attend {site.keys} channels"
    elif site.kind == "window":
        kind, mechanism = "self", f"windows of {site.keys} tokens, {heads}"
        attends = f"{site.queries} tokens attend {site.keys}, in {site.windows} windows"
        shape = (site.windows, *shape)
    elif site.kind == "pooling":
        kind, mechanism = "spatial", f"{made} pooling, {heads}"
        attends = f"{site.queries} weighted sum{'s' * (site.queries != 1)} over {tokens}"
    elif site.kind == "cross":
        kind, mechanism = "cross", f"{made} attention, {heads}"
        looks = "query attends" if site.queries == 1 else "queries attend"
        attends = f"{site.queries} {looks} {tokens}"
    else:
        kind, mechanism = "self", f"{made} attention, {heads}"
        attends = f"{tokens} attend each other"
    return Mechanism(site.name, kind, mechanism, attends, shape, call=site.call, source=site)


def time_steps(example: Any) -> int | None:
    """Return the number of frames of a clip, 0 for a sequence of any length, None for pictures.

    Clips are (B, T, C, H, W) or (B, C, T, H, W), C at most 4; sequences are token numbers of two
    dimensions or more, or (B, T, features).
    """
    values = (
        list(example.values()) if isinstance(example, Mapping)
        else list(example) if isinstance(example, tuple) else [example]
    )  # fmt: skip
    tensors = [v for v in values if isinstance(v, Tensor)]
    for tensor in tensors:
        if tensor.ndim == 5 and tensor.is_floating_point():
            return int(tensor.shape[1] if tensor.shape[2] <= 4 else tensor.shape[2])
    if any(t.is_floating_point() and t.ndim == 4 for t in tensors):
        return None
    sequence = any(t.ndim == 3 or (t.ndim > 1 and not t.is_floating_point()) for t in tensors)
    return 0 if sequence else None
