"""The margin: what speaks for one class rather than the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import TargetError
from .models.classes import class_index
from .models.outputs import class_logits, is_binary, logits_of
from .targets import ClassTarget, Target


@dataclass(frozen=True)
class Margin(Target):
    """What speaks for one class rather than the others: the score whose map guidance trains.

    Against the "strongest" it is the difference to the highest other logit; against "all" others
    the log odds, logit - logsumexp(the others), whose weights move with the logits, biases
    included. With two classes both are the difference of the logits; a binary classifier's single
    logit, or minus it, is such a difference. A regression has no others, and is explained by
    its output.

    Attributes:
        cls: index or label; None is the class predicted for each image.
        against: "strongest" or "all".
    """

    cls: int | str | None = None
    against: str = "strongest"
    index: int | None = None
    label: str = "predicted class - next"

    def __post_init__(self) -> None:
        if self.against not in ("strongest", "all"):
            raise TargetError(f"against {self.against!r} is not 'strongest' or 'all'")

    def bind(self, classes: int, labels: Sequence[str] | None) -> Target:
        """Return the target with its class index and label."""
        if classes < 2:
            return ClassTarget(0 if self.cls is None else self.cls).bind(classes, labels)
        if self.cls is None:
            return self
        index = class_index(self.cls, classes, labels)
        name = labels[index] if labels and index < len(labels) else f"class {index}"
        others = "next" if self.against == "strongest" else "others"
        return Margin(self.cls, self.against, index, f"{name} - {others}")

    def score(self, output: Any) -> Tensor:
        """Return the margins, (B,)."""
        logits = logits_of(output)
        return self.score_rows([self] * len(logits), logits)

    @staticmethod
    def score_rows(targets: Sequence[Margin], logits: Tensor) -> Tensor:
        """Return each image's margin, (B,), of logits (B, classes)."""
        logits = class_logits(logits)
        classes, strongest = _read(targets, logits)
        own = logits.gather(1, classes[:, None])[:, 0]
        others = logits.scatter(1, classes[:, None], float("-inf"))
        return own - torch.where(strongest, others.amax(1), others.logsumexp(1))

    @staticmethod
    def weight_rows(targets: Sequence[Margin], logits: Tensor) -> Tensor:
        """Return d margin / d logits, like `logits`, with the graph of those they depend on."""
        if is_binary(logits):  # (0, z): the first column has no gradient
            return Margin.weight_rows(targets, class_logits(logits))[:, 1:]
        classes, strongest = _read(targets, logits)
        others = logits.scatter(1, classes[:, None], float("-inf"))
        highest = F.one_hot(others.argmax(1), logits.shape[1]).to(logits)
        weights = -torch.where(strongest[:, None], highest, others.softmax(1))
        return weights.scatter(1, classes[:, None], 1.0)

    def describe(self) -> Any:
        """Return the margin's name."""
        return f"margin({'predicted' if self.index is None else self.index})"


def _read(targets: Sequence[Margin], logits: Tensor) -> tuple[Tensor, Tensor]:
    """The class of each image, named or predicted, and whether the strongest other counts."""
    named = torch.tensor([-1 if t.index is None else t.index for t in targets])
    named = named.to(logits.device)
    classes = torch.where(named < 0, logits.detach().argmax(1), named)
    strongest = torch.tensor([t.against == "strongest" for t in targets], device=logits.device)
    return classes, strongest
