"""Losses on maps, one file each and interchangeable.

    seen = guidance.class_map(model, x, y)
    loss = F.cross_entropy(seen.logits, y) + guidance.losses.energy(seen, masks).total

Each takes maps (B, h, w) or what `class_map` returned, then what is known of the object
(`annotate(...)`, masks (B, H, W), a list with None, or None), and returns `LossParts`.
"""

from __future__ import annotations

from collections.abc import Callable

from ._base import LOSSES, LossParts, option_names, register_loss

__all__ = ["LOSSES", "LossParts", "get", "option_names", "register_loss"]


def get(name: str) -> Callable[..., LossParts]:
    """Return a loss by name; `LOSSES.names()` lists them."""
    return LOSSES.get(name).fn


# each loss under its own name: after discovery the name is the module's, which hides the function
globals().update({entry.name: entry.fn for entry in LOSSES})


def __dir__() -> list[str]:
    return sorted([*__all__, *LOSSES.names()])
