"""A class against those most like it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..errors import TargetError
from ..models.classes import class_index
from ..models.outputs import class_logits
from .kinds import Target, bound, class_name, flat_logits


@dataclass(frozen=True)
class FinerTarget(Target):
    """What speaks for a class and not for those most like it (Finer-CAM, Zhang et al. 2025).

    y_c - gamma mean_d y_d (arXiv:2501.11309), d being the `similar` classes whose logits are
    nearest to y_c in each image.

    Args:
        cls: index or label.
        similar: how many classes are compared with, at most all others.
        gamma: strength of the comparison; 0 is the class itself.
    """

    cls: int | str
    similar: int = 3
    gamma: float = 0.6
    index: int | None = None
    label: str = ""

    def bind(self, classes: int, labels: Sequence[str] | None) -> FinerTarget:
        """Return the target with its class index and label."""
        if self.similar < 1 or self.gamma < 0 or classes < 2:
            raise TargetError(
                f"finer needs a second class and similar of at least 1, gamma not negative; got "
                f"{classes} classes, similar={self.similar}, gamma={self.gamma}"
            )
        index = class_index(self.cls, classes, labels)
        return replace(self, index=index, label=f"{class_name(index, labels)} - similar")

    def score(self, output: Any) -> Tensor:
        """Return the differences, (B,)."""
        logits = class_logits(flat_logits(output))
        index = bound(self.index)
        own = logits[:, index]
        with torch.no_grad():
            far = (logits - own[:, None]).abs()
            far[:, index] = torch.inf
            nearest = far.topk(min(self.similar, logits.shape[1] - 1), 1, largest=False).indices
        return own - self.gamma * logits.gather(1, nearest).mean(1)

    def describe(self) -> Any:
        """Return what is explained as text."""
        return f"{self.index} - similar"
