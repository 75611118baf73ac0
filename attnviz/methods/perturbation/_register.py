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
    aliases: tuple[str, ...] = (),
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a method `(group, layer, *, options) -> (K, g, h, w)`.

    Args:
        name: what users call it.
        paper: its source.
        units: what the raw values are measured in.
        reads_layer: it reads an activation, a `Layer`; otherwise it gets None.
        needs_gradient: it reads the gradient there, too.
        aliases: other names for it.
    """
    return METHODS.register(
        name,
        family="perturbation",
        paper=paper,
        aliases=aliases,
        units=units,
        reads_layer=reads_layer or needs_gradient,
        needs_gradient=needs_gradient,
    )
