"""Ways through a network, read off the graph of one forward: shortcuts, pyramids, outputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

#: steps of a graph that mix channels by weights
_MIXING = ("Convolution", "Addmm", "Mm", "Bmm", "Baddbmm", "Linear", "ScaledDot", "Einsum")


def weightless(aims: list[Tensor], outputs: Mapping[str, Tensor]) -> set[str]:
    """Return the layers that nothing with weights stands behind: the output, by another name."""
    names = {tensor.grad_fn: name for name, tensor in outputs.items() if tensor.grad_fn is not None}
    found, seen = set(), set()
    steps = [tensor.grad_fn for tensor in aims]
    while steps:
        step = steps.pop()
        if step is None or step in seen:
            continue
        seen.add(step)
        if step in names:
            found.add(names[step])
        if not step.name().startswith(_MIXING):
            steps += [before for before, _ in step.next_functions]
    return found


def halves(aims: list[Tensor], outputs: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the gradients of the sum over either half of a dense output, for every layer."""
    generator = torch.Generator().manual_seed(2)
    scores: list[Any] = [0, 0]
    for aim in aims:
        axis, channels = (2, 1) if aim.ndim > 3 else (1, -1)  # maps, or queries and tokens
        shape = [1] * aim.ndim
        shape[channels] = aim.shape[channels]
        weighted = aim * torch.randn(shape, generator=generator).to(aim)
        half = aim.shape[axis] // 2
        scores[0] = scores[0] + weighted.narrow(axis, 0, half).sum()
        scores[1] = scores[1] + weighted.narrow(axis, half, aim.shape[axis] - half).sum()
    found = [
        torch.autograd.grad(score, list(outputs.values()), allow_unused=True, retain_graph=True)
        for score in scores
    ]
    pairs = zip(outputs, *found, strict=True)
    return {name: (a, b) for name, a, b in pairs if a is not None and b is not None}


def maps_in(inputs: Any) -> Iterator[Tensor]:
    """Return the feature maps (B, C, h, w) among what a layer is called with."""
    for value in inputs.values() if isinstance(inputs, Mapping) else inputs:
        if isinstance(value, Tensor):
            if value.ndim == 4:
                yield value
        elif isinstance(value, Mapping | list | tuple):
            yield from maps_in(value)


@dataclass(frozen=True)
class Way:
    """Through a layer: the steps of the graph at its entries, at its end, and the grids there."""

    end: Any
    entries: set[Any]
    grids: set[tuple[int, ...]]


def stage_rank(name: str, part: nn.Module) -> int:
    """Return 2 for a part of the whole model or of several weights, 1 for other parts, else 0."""
    if "." not in name or sum(weight.ndim > 1 for weight in part.parameters()) > 1:
        return 2
    return int(next(part.children(), None) is not None)


def origin(tensor: Tensor) -> Any:
    """Return the step of the graph that a tensor comes from, also that of a leaf."""
    if not tensor.requires_grad:
        return None
    made: Any = tensor.grad_fn
    return made or tensor.view_as(tensor).grad_fn.next_functions[0][0]  # pyright: ignore


def beside(grids: Mapping[str, tuple[int, ...]], ways: Mapping[str, Way]) -> set[str]:
    """Return the layers that a part around them goes round, from or to a grid like theirs."""
    found: set[str] = set()
    for name in sorted((n for n in grids if n in ways), key=len):
        around = name.rpartition(".")[0]
        while around and around not in ways:
            around = around.rpartition(".")[0]
        if around not in grids or grids[name] not in ways[around].grids:
            continue
        if around in found:
            found.add(name)
            continue
        steps, seen = [ways[around].end], {ways[name].end}
        while steps:
            step = steps.pop()
            if step is None or step in seen:
                continue
            if step in ways[around].entries:
                found.add(name)
                break
            seen.add(step)
            steps += [before for before, _ in step.next_functions]
    return found


def pyramid(given: Mapping[str, Mapping[str, tuple[int, ...]]], usable: set[str]) -> list[str]:
    """Return the maps of several grids that the last part to take such maps was given."""
    for sources in reversed(list(given.values())):
        found = {name: size for name, size in sources.items() if name in usable}
        if len(found) > 1 and len(set(found.values())) == len(found) == len(sources):
            return sorted(found, key=lambda name: found[name], reverse=True)
    return []


def unshared(names: set[str], levels: list[str], ways: Mapping[str, Way]) -> set[str]:
    """Return the layers that not every level of a pyramid comes from; none without levels."""
    known = {ways[name].end: name for name in names if name in ways}
    shared: set[str] = set(known.values())
    for level in levels:
        steps, seen = [ways[level].end], set()
        while steps:
            step = steps.pop()
            if step is None or step in seen:
                continue
            seen.add(step)
            steps += [before for before, _ in step.next_functions]
        shared &= {known[step] for step in seen if step in known}
    return (set(known.values()) - shared) if levels else set()
