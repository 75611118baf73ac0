"""What each module costs: parameters, and floating-point operations of one forward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def parameters(module: nn.Module) -> int:
    """Return the number of parameters, shared ones counted once."""
    return sum(p.numel() for p in {id(p): p for p in module.parameters()}.values())


@contextmanager
def flops(model: nn.Module) -> Iterator[dict[str, int]]:
    """Count the operations of each module while it runs; {name: flops}, "" for the model.

    Counted by torch's own FlopCounterMode: matrix products and convolutions, two operations for a
    multiplication with addition.
    """
    counted: dict[str, int] = {}
    with FlopCounterMode(display=False) as counter:
        yield counted
    root = type(model).__name__
    for name, operations in counter.get_flop_counts().items():
        if name == "Global":
            continue
        plain = name[len(root) + 1 :] if name.startswith(f"{root}.") else ""
        counted[plain] = sum(operations.values())
    counted[""] = counter.get_total_flops()
