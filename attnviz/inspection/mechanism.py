"""One attention mechanism of a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

#: kind -> what such a mechanism weighs
KINDS = {
    "channel": "channels of a feature map, or channels by channels",
    "spatial": "positions",
    "temporal": "frames or time steps",
    "branch": "parallel paths",
    "channel & spatial": "positions of single channels",
    "spatial & temporal": "positions of single frames",
    "self": "tokens by tokens of the same sequence or picture",
    "cross": "tokens by tokens of another sequence",
    "hard": "one place at a time, chosen",
}


@dataclass(frozen=True, eq=False, repr=False)
class Mechanism:
    """One mechanism as it ran on the example.

    Attributes:
        name: dotted name of the module, "" for the model itself.
        kind: a key of `KINDS`.
        mechanism: what the literature calls it, as far as it shows: "gate (sigmoid)",
            "softmax attention, 3 heads", "windows of 49 tokens", "spatial transformer".
        attends: what looks at what, in words.
        shape: of the tensor that does the attending, the batch left out.
        module: class name of the module.
        parameters: of that module.
        parameter_share: of the model's.
        flops: of that module in one forward pass of the example, None if not counted. Products
            of matrices and convolutions only, two for a multiplication with addition.
        flop_share: of the model's.
        call: which use of the module it was, where it ran several times.
        source: the tap's `Site` or `Gate`, or the tensor itself.
    """

    name: str
    kind: str
    mechanism: str
    attends: str
    shape: tuple[int, ...]
    module: str = ""
    parameters: int = 0
    parameter_share: float = 0.0
    flops: int | None = None
    flop_share: float | None = None
    call: int = 0
    source: Any = None

    def __repr__(self) -> str:
        return f"Entry({self.name!r}, {self.kind}, {self.mechanism}, {self.shape})"

    def read(self, **options: Any) -> Tensor:
        """Return the tensor that does the attending, (B, *shape): weights, gates or a grid.

        Args:
            **options: `rows` and `heads` of a softmax attention, see `Site.weights`.
        """
        if isinstance(self.source, Tensor):
            return self.source
        return self.source.weights(**options)

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {
            "name": self.name,
            "kind": self.kind,
            "mechanism": self.mechanism,
            "attends": self.attends,
            "shape": list(self.shape),
            "module": self.module,
            "parameters": self.parameters,
            "parameter_share": self.parameter_share,
            "flops": self.flops,
            "flop_share": self.flop_share,
            "call": self.call,
        }
