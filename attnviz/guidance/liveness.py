"""`check_alive`: can this loss move the parameters that it is meant to move? If not, why."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import GuidanceError
from ..hooks import unwrap
from .class_maps import ClassMap
from .losses import LossParts


@dataclass(frozen=True)
class Alive:
    """What a living loss moves.

    Attributes:
        moved: names of the parameters with a gradient that is not zero.
        still: names of trainable parameters without one.
        norm: the gradient's Euclidean norm over all of them.
    """

    moved: tuple[str, ...]
    still: tuple[str, ...]
    norm: float


def check_alive(
    loss: Tensor | LossParts, model: nn.Module, *, maps: Tensor | ClassMap | None = None
) -> Alive:
    """Raise unless the guidance loss trains the model through its map; say why not.

    Call it once, on the guidance loss alone (the classification loss moves everything and hides
    the fault), before training; it costs one backward pass and leaves `.grad` alone.

    Args:
        loss: the guidance loss with its graph.
        model: the model in training.
        maps: the maps that the loss was computed from; with them it is found whether the loss
            depends on the map at all, and whether the map's weights are part of the graph.

    Returns:
        `Alive`.

    Raises:
        GuidanceError: the loss or the map is detached; nothing is trainable; the map's channel
            weights are constants (the classifier behind the layer gets no gradient from it); the
            map is zero everywhere; the loss is saturated (every gradient is exactly zero).
    """
    value = loss.total if isinstance(loss, LossParts) else loss
    model = unwrap(model)
    trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
    if not trainable:
        raise GuidanceError(
            f"no parameter of {type(model).__name__} requires gradients: everything is frozen, so "
            "no loss can train it; set requires_grad_(True) on what is to learn"
        )
    if not torch.isfinite(value.detach()).all():
        raise GuidanceError("the guidance loss is not finite (NaN or infinity)")
    if isinstance(loss, LossParts) and loss.count == 0:
        raise GuidanceError(
            "no image of this batch is annotated, so the loss is zero here; check on a batch that "
            "holds annotation"
        )
    if not value.requires_grad:
        raise GuidanceError(
            "the guidance loss has no graph: the map was detached on the way (.detach(), .data, "
            ".item(), numpy, torch.no_grad), so it is a number and trains nothing"
        )
    reached = _reachable([value])
    values = maps.maps if isinstance(maps, ClassMap) else maps
    if values is not None:
        _check_maps(values, value, reached, model, maps if isinstance(maps, ClassMap) else None)
    names = [n for n, p in trainable.items() if id(p) in reached.leaves]
    if not names:
        raise GuidanceError(
            "the guidance loss reaches none of the trainable parameters: what it depends on is "
            "frozen (the whole part before and behind the layer), or belongs to another model"
        )
    gradients = torch.autograd.grad(
        value, [trainable[n] for n in names], retain_graph=True, allow_unused=True
    )
    norms = {
        n: float(g.detach().double().norm())
        for n, g in zip(names, gradients, strict=True)
        if g is not None
    }
    moved = tuple(n for n, v in norms.items() if v > 0)
    if any(v != v or v == float("inf") for v in norms.values()):
        raise GuidanceError("the guidance loss has a gradient that is not finite")
    if not moved:
        dead = values is not None and not bool((values.detach() != 0).any())
        raise GuidanceError(
            "every gradient of the guidance loss is exactly zero: "
            + (
                "the map is zero everywhere (a ReLU cut all of it off); use signed=True maps with "
                "the abs or softplus form"
                if dead
                else "a clamp, ReLU, or saturated sigmoid or softmax on the way is constant here; "
                "use signed maps, a less steep mask, or the margin score"
            )
        )
    still = tuple(n for n in trainable if n not in moved)
    return Alive(moved, still, sum(v * v for v in norms.values()) ** 0.5)


@dataclass(frozen=True)
class _Graph:
    nodes: frozenset[int]
    leaves: frozenset[int]
    keep: tuple  # the nodes themselves: Python hands out a new wrapper, and id, for dropped ones


def _reachable(tensors: Iterable[Tensor]) -> _Graph:
    """Walk the autograd graph: the nodes, and the leaf tensors (by id) that gradients arrive at."""
    seen: dict[int, object] = {}
    leaves: set[int] = set()
    stack = []
    for tensor in tensors:
        if tensor.grad_fn is not None:
            stack.append(tensor.grad_fn)
        elif tensor.requires_grad:
            leaves.add(id(tensor))
    while stack:
        node = stack.pop()
        if id(node) in seen:
            continue
        seen[id(node)] = node
        if hasattr(node, "variable"):
            leaves.add(id(node.variable))
        stack += [parent for parent, _ in node.next_functions if parent is not None]
    return _Graph(frozenset(seen), frozenset(leaves), tuple(seen.values()))


def _check_maps(
    maps: Tensor, value: Tensor, reached: _Graph, model: nn.Module, seen: ClassMap | None
) -> None:
    if not maps.requires_grad:
        raise GuidanceError(
            "the map has no graph: it was made under no_grad, detached, copied through numpy, or "
            "from hooks after .backward(). Make it with guidance.class_map, or with "
            "torch.autograd.grad(..., create_graph=True)"
        )
    used = (
        id(maps.grad_fn) in reached.nodes
        if maps.grad_fn is not None
        else id(maps) in reached.leaves
    )
    if not used:
        raise GuidanceError(
            "the guidance loss does not depend on the map given: a detached or binarised copy of "
            "it was used (threshold it softly, with a sigmoid)"
        )
    own = _reachable([maps])
    tail = _tail(model, seen)
    if tail and not any(id(p) in own.leaves for p in tail.values()):
        raise GuidanceError(
            "the map's channel weights are constants: no gradient arrives at "
            f"{', '.join(list(tail)[:3])} behind the layer, so the loss trains the features only "
            "(gradients taken with .backward(), without create_graph=True, or detached). Make "
            "the map with guidance.class_map"
        )
    (through,) = torch.autograd.grad(value, maps, retain_graph=True, allow_unused=True)
    if through is None or not bool((through != 0).any()):
        dead = not bool((maps.detach() > 0).any())
        raise GuidanceError(
            "the guidance loss does not move the map: d loss / d map is exactly zero everywhere. "
            + (
                "The map is nowhere positive, and a ReLU behind it leaves nothing: use the abs or "
                "softplus form"
                if dead
                else "A clamp, or a saturated sigmoid or softmax, stands between the two: use a "
                "less steep mask, or the margin score"
            )
        )


def _tail(model: nn.Module, seen: ClassMap | None) -> dict[str, Tensor]:
    """The trainable parameters behind the layer that a map's weights are made of."""
    if seen is None:
        # without the forward at hand: the weights of the last linear layer, the classifier
        linear = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear)]
        if not linear or not linear[-1][1].weight.requires_grad:
            return {}
        return {f"{linear[-1][0]}.weight": linear[-1][1].weight}
    behind = _reachable([seen.logits]).leaves - _reachable([seen.activation]).leaves
    # a bias shifts the score and has no part in its gradient
    return {n: p for n, p in model.named_parameters() if id(p) in behind and p.ndim > 1}
