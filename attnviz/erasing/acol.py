"""ACoL: a second classifier must do without what the first one looks at."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import MethodError
from ..hooks import find_layers, unwrap


class ACoLOutput(NamedTuple):
    """What `ACoL` returns; `logits` is the first classifier's."""

    logits: Tensor
    erased_logits: Tensor
    maps: Tensor


class ACoL(nn.Module):
    """Adversarial complementary learning: two classifiers on one trunk (Zhang et al. 2018).

    arXiv:1804.06962. Both are convolutional, so their maps are their own last activations. The
    second sees the features with the positions zeroed where the first one's normalised map of
    the label is at least `threshold`. The map is the larger of the two.

    Args:
        model: a network; what precedes `layer`'s output serves as the trunk, and is shared (its
            own classifier is not used).
        layer: dotted name or module whose output is (B, C, h, w).
        channels: C.
        classes: number of classes.
        threshold: share of the first map's range that is erased.
        width: channels of the two convolutions of each classifier; None takes C.
    """

    def __init__(
        self,
        model: nn.Module,
        layer: str | nn.Module,
        channels: int,
        classes: int,
        *,
        threshold: float = 0.7,
        width: int | None = None,
    ) -> None:
        super().__init__()
        self.trunk = unwrap(model)
        ((self.layer, _),) = find_layers(self.trunk, layer).items()
        self.threshold = threshold
        width = width or channels
        self.first, self.second = (
            nn.Sequential(
                nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, classes, 1)
            )
            for _ in range(2)
        )

    def features(self, images: Tensor) -> Tensor:
        """Return the trunk's activation at the layer, (B, C, h, w)."""
        found: list[Any] = []

        def stop(_module: nn.Module, _inputs: Any, output: Any) -> None:
            found.append(output)
            raise _TrunkDone

        handle = self.trunk.get_submodule(self.layer).register_forward_hook(stop)
        try:
            self.trunk(images)
        except _TrunkDone:
            pass
        finally:
            handle.remove()
        if not found or not isinstance(found[0], Tensor) or found[0].ndim != 4:
            raise MethodError(f"layer {self.layer!r} gives no activation (B, C, h, w)")
        return found[0]

    def forward(self, images: Tensor, labels: Tensor | None = None) -> ACoLOutput:
        """Return both classifiers' logits (B, classes) and maps (B, classes, h, w).

        Args:
            images: (B, C, H, W).
            labels: (B,) whose map is erased; None erases the first classifier's predictions.
        """
        features = self.features(images)
        first = self.first(features)
        logits = first.mean((-2, -1))
        chosen = logits.argmax(1) if labels is None else labels
        own = first[torch.arange(len(first)), chosen].detach()[:, None]
        low, high = own.amin((-2, -1), keepdim=True), own.amax((-2, -1), keepdim=True)
        share = (own - low) / (high - low).clamp_min(1e-12)
        second = self.second(features * (share < self.threshold))
        return ACoLOutput(logits, second.mean((-2, -1)), torch.maximum(_unit(first), _unit(second)))

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the sum of both classifiers' cross-entropies."""
        output = self(images, labels)
        return F.cross_entropy(output.logits, labels) + F.cross_entropy(
            output.erased_logits, labels
        )


class _TrunkDone(Exception):
    """The trunk has run as far as it is needed."""


def _unit(maps: Tensor) -> Tensor:
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    return (maps - low) / (high - low).clamp_min(1e-12)
