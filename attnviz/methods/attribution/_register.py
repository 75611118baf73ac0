from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .. import METHODS


def register_attribution(
    name: str,
    *,
    paper: str,
    units: str,
    class_specific: bool = True,
    signed: bool | None = True,
    aliases: tuple[str, ...] = (),
    any_rank: bool = True,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a method `(job, *, options) -> (K, g, H, W)`.

    Args:
        name: what users call it.
        paper: its source.
        units: what the raw values are measured in.
        class_specific: False where the map is the same for every target.
        signed: None where the map is never negative.
        aliases: other names for it.
        any_rank: False where it is for pictures alone; others explain signals and volumes too.
    """
    return METHODS.register(
        name,
        family="attribution",
        paper=paper,
        aliases=aliases,
        units=units,
        class_specific=class_specific,
        signed=signed,
        any_rank=any_rank,
    )
