"""What the cards of trained reference modules share."""

from __future__ import annotations

from functools import cache
from typing import Any

from torch import Tensor, nn

from .. import modules as reference


@cache
def trained(name: str, number: int) -> tuple[nn.Module, Tensor, Any]:
    """A trained reference, one of its test examples (1, ...), and the batch of that example."""
    import torch

    batch = reference.sample(name, 16).take(torch.tensor([number]))
    return reference.load(name), batch.inputs[0], batch


def measured(name: str) -> dict[str, float]:
    """What the manifest says of a reference: numbers on many test examples."""
    return dict(reference.manifest()["models"][name]["measured"])
