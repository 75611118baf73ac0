"""Fine-tuning that keeps to where it started: weights pulled back, and a part of the way kept.

Few images and a strong map loss take a pretrained network far from what it knew; ordinary photos
pay for it. The last layer is left out: it is new, and has nothing to go back to.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from .config import GuideConfig


class Start(nn.Module):
    """The trained weights but the last layer's, as they were at the start; part of a checkpoint.

    Args:
        model: before training.
        config: `pull` and `keep`, both settled.
    """

    def __init__(self, model: nn.Module, config: GuideConfig) -> None:
        super().__init__()
        self.pull, self.share = (
            float(config.pull or 0),
            float(1 if config.keep is None else config.keep),
        )
        self.moving: list[tuple[str, nn.Parameter]] = []
        if not self.used:
            return
        head = _head(model)
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and not any(name.startswith(h) for h in head):
                stored = name.replace(".", "/")
                self.moving.append((stored, parameter))
                self.register_buffer(stored, parameter.detach().clone())

    @property
    def used(self) -> bool:
        """Whether there is anything to do."""
        return self.pull > 0 or self.share < 1

    @torch.no_grad()
    def draw(self, lr: float) -> None:
        """Pull the weights back: w -= lr * pull * (w - start)."""
        if self.pull:
            for name, parameter in self.moving:
                parameter.sub_(lr * self.pull * (parameter - self.get_buffer(name)))

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Inside the block the weights are start + share * (trained - start)."""
        if self.share >= 1:
            yield
            return
        raw = [p.detach().clone() for _, p in self.moving]
        try:
            with torch.no_grad():
                for name, parameter in self.moving:
                    parameter.copy_(torch.lerp(self.get_buffer(name), parameter, self.share))
            yield
        finally:
            with torch.no_grad():
                for (_, parameter), value in zip(self.moving, raw, strict=True):
                    parameter.copy_(value)


def _head(model: nn.Module) -> tuple[str, ...]:
    """Prefixes of the parameters of what classifies."""
    from ..erasing import ACoL
    from .pooling import PooledModel

    if isinstance(model, PooledModel | ACoL):
        return tuple(f"{n}." for n, _ in model.named_children() if n != "trunk")
    linear = [n for n, m in model.named_modules() if isinstance(m, nn.Linear)]
    return (f"{linear[-1]}.",) if linear else ()
