"""What else the tap found: `Gate`, a multiplication by weights, and `Missed`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from .fold import wide


@dataclass(frozen=True, eq=False, repr=False)
class Gate:
    """One multiplication by weights in [0, 1]: squeeze-and-excitation, CBAM, selective kernel.

    Attributes:
        index, name, step, call, batch: as in `Site`; the name is of the module that multiplies.
        kind: "gate".
        function: what made the weights: "sigmoid", "hardsigmoid" or "softmax".
        origin: name of the module in which that function ran.
        tensor: the weights as they were multiplied, before any expansion, e.g. (B, C, 1, 1).
        target_shape: shape of what was multiplied, broadcast.
        broadcast: dimensions along which one weight serves all.
        axes: what the weights tell apart, e.g. ("channel",), ("height", "width"), ("branch",
            "channel"), ("token",); ("element",) where each element has its own.
        summed: dimensions over which the product was summed afterwards (attention pooling), if
            that was seen.
    """

    index: int
    name: str
    step: int
    call: int
    function: str
    origin: str
    tensor: Tensor
    target_shape: tuple[int, ...]
    broadcast: tuple[int, ...]
    axes: tuple[str, ...]
    softmax_dim: int | None = None
    module: Any = None
    notes: dict[str, Any] = field(default_factory=dict)
    kind: str = "gate"

    @property
    def summed(self) -> tuple[int, ...]:
        """Dimensions over which the product was summed afterwards; () if that was not seen."""
        return self.notes.get("summed", ())

    @property
    def batch(self) -> int:
        """Number of samples."""
        return self.tensor.shape[0] if self.tensor.ndim else 1

    @property
    def heads(self) -> int:
        """1: a gate has no heads."""
        return 1

    @property
    def queries(self) -> int:
        """1: a gate has no queries."""
        return 1

    @property
    def keys(self) -> int:
        """Number of weights per sample."""
        return self.tensor[0].numel() if self.batch else 0

    def weights(self) -> Tensor:
        """Return the weights as they were multiplied, in float32 or higher."""
        return wide(self.tensor)

    def __repr__(self) -> str:
        return (
            f"Gate({self.index}, {self.name!r}, {self.function} over {'+'.join(self.axes)}, "
            f"{tuple(self.tensor.shape)} on {self.target_shape})"
        )


@dataclass(frozen=True)
class Missed:
    """Something that looks like attention and could not be read, and why.

    Attributes:
        name: dotted name of the module, or of the operation.
        reason: what it is and what to do about it.
    """

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"
