from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .. import METHODS


def register_attention(
    name: str,
    *,
    paper: str,
    units: str,
    needs_gradient: bool = False,
    keep: str = "qk",
    per_layer: bool = False,
    needs_tokens: bool = False,
    own_pass: bool = False,
    aliases: tuple[str, ...] = (),
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a map of attention `(reading, column, **options) -> (B, h, w)`.

    Its keyword-only arguments are its options in `explain`.

    Args:
        name: what users call it.
        paper: its source.
        units: what the raw values are measured in.
        needs_gradient: it is about a class; False where it is the same for every target.
        keep: what it reads of each attention: "qk" for the weights, "qkv" for the values too, or
            "all" for the output as well. With a gradient all is kept.
        per_layer: it shows one layer (the last by default) and not all of them together.
        needs_tokens: it reads the tokens behind each block.
        own_pass: it runs the model itself: `(request, **options) -> (ForwardPass, maps)`.
        aliases: other names for it.
    """
    return METHODS.register(
        name,
        family="attention",
        paper=paper,
        aliases=aliases,
        units=units,
        needs_gradient=needs_gradient,
        keep=keep,
        per_layer=per_layer,
        needs_tokens=needs_tokens,
        own_pass=own_pass,
    )
