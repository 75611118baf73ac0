from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .. import METHODS


def register_cam(
    name: str,
    *,
    paper: str,
    units: str,
    needs_gradient: bool = True,
    needs_linear_head: bool = False,
    own_pass: bool = False,
    signed: bool | None = False,
    additive: bool = True,
    aliases: tuple[str, ...] = (),
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a class activation map `(activation, gradient, *, options) -> (B, h, w)`.

    The function returns negative values, too; what becomes of them is said here and by `signed=`.

    Args:
        name: what users call it.
        paper: its source.
        units: what the raw values are measured in.
        needs_gradient: False where only the activation is read.
        needs_linear_head: True where the map means something only if the classifier is one
            linear layer on the layer's average.
        own_pass: it runs the model itself: `(request, *, options) -> OwnMaps`.
        signed: keep negative values where `signed=` says nothing, as the paper does; None where
            there are none, so that `signed=` is an error.
        additive: the map is a sum of what each channel gives by itself, which `eigen_smooth` needs.
        aliases: other names for it.
    """
    return METHODS.register(
        name,
        family="cam",
        paper=paper,
        aliases=aliases,
        units=units,
        needs_gradient=needs_gradient,
        needs_linear_head=needs_linear_head,
        own_pass=own_pass,
        signed=signed,
        additive=additive,
    )
