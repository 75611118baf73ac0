from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .. import METHODS


def register_perturbation(
    name: str,
    *,
    paper: str,
    units: str,
    reads_layer: bool = False,
    needs_gradient: bool = False,
    runs_tail: bool = False,
    signed: bool | None = None,
    aliases: tuple[str, ...] = (),
    any_rank: bool = False,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a method `(group, layer, *, options) -> (K, g, h, w)`.

    Args:
        name: what users call it.
        paper: its source.
        units: what the raw values are measured in.
        reads_layer: it reads an activation, a `Layer`; otherwise it gets None.
        needs_gradient: it reads the gradient there, too.
        runs_tail: it runs the part behind the layer, unless that is a linear head.
        signed: False drops negative values where `signed=` says nothing; None keeps them, and
            `signed=` is an error.
        aliases: other names for it.
        any_rank: it explains signals and volumes, too.
    """
    return METHODS.register(
        name,
        family="perturbation",
        paper=paper,
        aliases=aliases,
        units=units,
        reads_layer=reads_layer or needs_gradient,
        needs_gradient=needs_gradient,
        runs_tail=runs_tail,
        signed=signed,
        any_rank=any_rank,
    )
