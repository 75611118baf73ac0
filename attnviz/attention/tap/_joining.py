"""Attentions that a model runs in parts and joins: chunks of queries, or one head after another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ._places import replay
from .site import Site, SiteLayout
from .tags import Rearranged

#: a part's output: the step that notes it, the number of its site, and its shape
Made = tuple[Rearranged, int, tuple[int, ...]]


def parts_of(
    notes: Sequence[Rearranged | None], made: dict[int, Made]
) -> list[tuple[Made, list[Rearranged]]] | None:
    """Return, for tensors that are joined, which attention each is the output of, and its moves."""
    found = []
    for note in notes:
        steps: list[Rearranged] = []
        while note is not None and id(note) not in made:
            if note.op != "move":
                return None
            steps.append(note)
            note = note.parent
        if note is None:
            return None
        found.append((made[id(note)], steps[::-1]))
    return found


def merged(
    sites: Sequence[Site], ways: Sequence[tuple[Made, list[Rearranged]]], joined: Tensor, dim: int,
    stacked: bool,
) -> Site | None:  # fmt: skip
    """Return one site for parts whose outputs were joined, None if they are no parts of one.

    Args:
        sites: of the parts.
        ways: how each part's output came to be what was joined, see `parts_of`.
        joined: the result.
        dim: along which they were joined.
        stacked: in a new dimension.
    """
    first = sites[0]
    alike = all(
        (s.step, s.kind, s.batch, s.keys, s.windows, s.scale, s.source)
        == (first.step, first.kind, first.batch, first.keys, first.windows, first.scale,
            first.source)
        and not s.causal and s._layout is not None
        for s in sites
    )  # fmt: skip
    if not alike or first.kind not in ("self", "cross"):
        return None
    offset, raw, folded, rows = 0, [], [], []
    for site, (part, steps) in zip(sites, ways, strict=True):
        shape = part[2]
        numbers = torch.arange(math.prod(shape)).view(shape)
        asked = torch.arange(shape[-2])[:, None].expand(shape)
        layout = site._layout
        assert layout is not None
        laid = site.fold_output(numbers)
        if laid.shape[:3] != (site.batch, site.heads, site.queries):
            return None
        folded.append(laid + offset)
        offset += numbers.numel()
        numbers = numbers + (offset - numbers.numel())
        for step in steps:
            numbers, asked = replay(step, numbers), replay(step, asked)
        raw.append(numbers)
        rows.append(asked)
    axis = 1 if stacked or _constant(rows[0], dim) else 2
    if all(_asks(s) == _asks(first) for s in sites[1:]):
        axis = 3  # the same weights, once for each part of the values
    if axis == 1 and len({s.queries for s in sites}) > 1:
        return None
    if axis == 2 and len({s.heads for s in sites}) > 1:
        return None
    if axis == 2 and not all(_same_keys(s, first) for s in sites[1:]):
        return None  # pictures packed into one sequence, each among its own tokens
    lined = torch.stack(raw, dim) if stacked else torch.cat(raw, dim)
    if tuple(lined.shape) != tuple(joined.shape):
        return None
    where = lined.flatten().argsort()[torch.cat(folded, axis)]
    heads = sum(s.heads for s in sites) if axis == 1 else first.heads
    queries = sum(s.queries for s in sites) if axis == 2 else first.queries
    grown = {1: ("q", "k", "v", "output", "probabilities"), 2: ("q", "output", "probabilities"),
             3: ("v", "output")}[axis]  # fmt: skip
    held = {n: _cat([getattr(s, n) for s in sites], axis) for n in grown}
    masks = [_full(s) for s in sites] if axis < 3 else [None]
    mask = first.mask if axis == 3 else None
    layout = first._layout
    assert layout is not None
    keeps = layout.raw is not None
    return replace(
        first, name=_common([s.name for s in sites]), heads=heads, queries=queries, **held,
        mask=mask if all(m is None for m in masks) else _cat(masks, axis),
        _layout=SiteLayout(
            layout.fold, layout.moved, layout.modules, layout.memo, joined if keeps else None,
            lambda tensor: tensor.flatten()[where.to(tensor.device)], True,
        ),
        _versions=tuple(v for s in sites for v in s._versions),
    )  # fmt: skip


def _constant(rows: Tensor, dim: int) -> bool:
    return bool((rows == rows.narrow(dim, 0, 1)).all())


def _asks(site: Site) -> tuple[int, ...] | None:
    held = site.probabilities if site.q is None else site.q
    return None if held is None else (held.data_ptr(), *held.shape, *held.stride())


def _same_keys(site: Site, other: Site) -> bool:
    """Say whether two parts look at the same tokens, where what was kept tells."""
    for one, two in ((site.k, other.k), (site.v, other.v)):
        if one is not None and two is not None:
            return one.shape == two.shape and torch.equal(one, two)
    return True


def _cat(tensors: Sequence[Tensor | None], dim: int) -> Tensor | None:
    known = [t for t in tensors if t is not None]
    return torch.cat(known, dim) if len(known) == len(tensors) else None


def _full(site: Site) -> Tensor | None:
    if site.mask is None:
        return None
    return site.mask.expand(site.batch, site.heads, site.queries, site.keys)


def _common(names: Sequence[str]) -> str:
    """Return the name of the module that holds all."""
    split = [name.split(".") for name in names]
    shared = []
    for level in zip(*split, strict=False):
        if len(set(level)) > 1:
            break
        shared.append(level[0])
    return ".".join(shared)
