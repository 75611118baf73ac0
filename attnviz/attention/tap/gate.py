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


def axes_of(weights: tuple[int, ...], shape: tuple[int, ...], dim: int | None) -> tuple[str, ...]:
    """Name the dimensions along which the weights differ."""
    varies = [i for i, (n, m) in enumerate(zip(weights, shape, strict=True)) if n == m and m > 1]
    if len(varies) == sum(m > 1 for m in shape):
        return ("element",)
    rank = len(shape)
    names: dict[int, str]
    if rank == 4:
        last = (varies in ([3], [0, 3]) and shape[3] != shape[2]) or (
            1 in varies and 2 in varies and 3 not in varies and shape[1] == shape[2]
        )
        names = (
            {1: "height", 2: "width", 3: "channel"} if last
            else {1: "channel", 2: "height", 3: "width"}
        )  # fmt: skip
    elif rank == 5:
        # (B, branch, C, H, W), or (B, C, T, H, W) where the weights differ along time alone
        names = {1: "branch", 2: "channel", 3: "height", 4: "width"}
        if dim not in (1, -4) and 2 in varies and 1 not in varies:
            names = {1: "channel", 2: "time", 3: "height", 4: "width"}
    elif rank == 3:
        names = {1: "token", 2: "channel"}
    elif rank == 2:
        names = {1: "channel"}
    else:
        names = {i: f"dim{i}" for i in range(rank)}
    return tuple(names.get(i, "sample") for i in varies if i != 0) or ("sample",)
