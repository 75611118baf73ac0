"""The score that an audit explains: the log-odds of the object's class, or set of classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import DataError, TargetError
from ..models.outputs import class_logits
from ..targets import Target, class_index, logits_of


def score_of(logits: Tensor, chosen: Sequence[int]) -> Tensor:
    """Return log(p / (1 - p)) with p the softmax probability of the chosen classes, (B,).

    It is logsumexp(chosen) - logsumexp(rest): the difference of the logits where there are two.
    A single logit is of class 1, and minus it of class 0.

    Args:
        logits: (B, classes).
        chosen: class indices.
    """
    logits = class_logits(logits)
    rest = [i for i in range(logits.shape[1]) if i not in set(chosen)]
    chosen = list(chosen)
    own = logits[:, chosen[0]] if len(chosen) == 1 else logits[:, chosen].logsumexp(1)
    against = logits[:, rest[0]] if len(rest) == 1 else logits[:, rest].logsumexp(1)
    return own - against


def called(logits: Tensor, chosen: Sequence[int]) -> Tensor:
    """Return whether the model's answer is one of the chosen classes, (B,) bool."""
    return torch.isin(
        class_logits(logits).argmax(1), torch.tensor(list(chosen), device=logits.device)
    )


@dataclass(frozen=True)
class LogOdds(Target):
    """The log-odds of a class or a set of classes against all others.

    Args:
        members: indices or labels.
        name: what it is called; the labels' own names if left out.
        single: the model has one logit for two classes.
    """

    members: tuple[int | str, ...]
    name: str = ""
    indices: tuple[int, ...] = ()
    total: int = 0
    label: str = ""
    single: bool = False

    def bind(self, classes: int, labels: Sequence[str] | None) -> LogOdds:
        """Return the target with its class indices."""
        if self.indices and self.total == classes:
            return self  # bound already, perhaps by labels that are not at hand now
        indices = tuple(dict.fromkeys(class_index(m, classes, labels) for m in self.members))
        if not indices or len(indices) == classes:
            raise TargetError(
                f"log-odds need at least one class and one other; got {len(indices)} of {classes}"
            )
        text = self.name or " or ".join(str(m) for m in self.members)
        label = f"log-odds of {text}"
        return LogOdds(self.members, self.name, indices, classes, label, self.single)

    @property
    def linear(self) -> Mapping[int, float] | None:
        """The two logits' difference where there are two, one logit; otherwise not linear."""
        if self.total != 2:
            return None
        if self.single:
            return {self.indices[0]: 1.0}
        return {self.indices[0]: 1.0, 1 - self.indices[0]: -1.0}

    def score(self, output: Any) -> Tensor:
        """Return the log-odds, (B,)."""
        return score_of(_classes(output), self.indices)

    def describe(self) -> Any:
        """Return the target as text."""
        return self.label


def _classes(output: Any) -> Tensor:
    logits = logits_of(output)
    if logits.ndim != 2:
        raise TargetError(
            f"an audit takes a classifier with logits (B, classes), got {tuple(logits.shape)}"
        )
    return logits


def find_target(
    target: Any, object: str, *, classes: int, labels: Sequence[str] | None, single: bool = False
) -> LogOdds:
    """Return the log-odds of the object's class in a model.

    Args:
        target: None for the class called like the object; an index, a label, or several.
        object: the object's name.
        classes: number of classes, two of a single logit: the object is class 1 then, unless
            labels or `target` say otherwise.
        labels: the model's class names, or None.
        single: the model has a single logit.

    Raises:
        DataError: the model has no such class, or all classes were chosen.
    """
    if isinstance(target, LogOdds):
        members = target.members
    elif target is None:
        members = (1,) if single and not labels else (object,)
    elif isinstance(target, str | int):
        members = (target,)
    else:
        members = tuple(target)
    try:
        return LogOdds(members, object, single=single).bind(classes, labels)
    except TargetError as error:
        raise DataError(
            f"the model has no class for the object {object!r}: {error}. Name the model's class or "
            "classes with target= (--target), as indices or labels"
        ) from error
