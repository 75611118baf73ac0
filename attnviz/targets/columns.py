"""Targets for a batch: one for each image, bound to the model's classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import TargetError
from ..models.classes import check_labels
from ..models.outputs import (
    class_count,
    is_binary,
    logits_of,
    predicted,
    probabilities,
    with_batch,
)
from .kinds import ClassTarget, FunctionTarget, Probability, Target, flat_logits


@dataclass(frozen=True)
class Column:
    """One target for each image of a batch."""

    targets: tuple[Target, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """What each image is explained for, as text."""
        return tuple(t.label for t in self.targets)

    @property
    def descriptions(self) -> tuple[Any, ...]:
        """What each image is explained for, as JSON values."""
        return tuple(t.describe() for t in self.targets)

    def score(self, output: Any) -> Tensor:
        """Return the score of each image, (B,)."""
        if not isinstance(self.targets[0], FunctionTarget):
            output = with_batch(output, len(self.targets))
        if all(t is self.targets[0] for t in self.targets):
            return self.targets[0].score(output)
        if all(isinstance(t, ClassTarget) for t in self.targets):
            logits = flat_logits(output)
            if is_binary(logits):
                logits = torch.cat([-logits, logits], 1)
            index = torch.tensor([t.index for t in self.targets], device=logits.device)
            return logits.gather(1, index[:, None])[:, 0]
        together = self._together()
        if together is not None:
            return together.score_rows(self.targets, flat_logits(output))
        scores: dict[int, Tensor] = {id(t): t.score(output) for t in self.targets}
        return torch.stack([scores[id(t)][i] for i, t in enumerate(self.targets)])

    def _together(self) -> Any:
        """The class of all targets where it reads a batch at once (`score_rows`), else None."""
        kinds = {type(t) for t in self.targets}
        return kinds.pop() if len(kinds) == 1 and hasattr(self.targets[0], "score_rows") else None

    def copies(self, output: Any, images: Sequence[int], *, followed: bool = False) -> Tensor:
        """Return the scores of altered copies, row r of the output being a copy of images[r].

        Args:
            output: of the copies.
            images: which image each is a copy of.
            followed: the copies lie on a way that is differentiated, see `Target.followed`.
        """
        made: dict[int, Target] = {}
        for target in self.targets:
            make = target.followed if followed else target.copies
            made.setdefault(id(target), make(images))
        return Column(tuple(made[id(self.targets[i])] for i in images)).score(output)

    def probability(self, logits: Tensor) -> Tensor | None:
        """Return the probability (B,) of the class that each image is explained for.

        NaN where an image's target is no single class; None where no image's is, where the logits
        are of a dense output, or where they have no probabilities (regression).
        """
        index = [
            t.index if isinstance(t, ClassTarget | Probability) else None for t in self.targets
        ]
        if logits.ndim > 2 or all(i is None for i in index):
            return None
        with torch.no_grad():
            found = probabilities(logits if logits.dtype == torch.float64 else logits.float())
        if found is None:
            return None
        at = torch.tensor([i or 0 for i in index], device=found.device)
        none = torch.tensor([i is None for i in index], device=found.device)
        return found.detach().gather(1, at[:, None])[:, 0].masked_fill(none, torch.nan)

    def coefficients(self, classes: int, like: Tensor) -> Tensor | None:
        """Return d score / d logits, (B, classes), None where that takes a backward pass.

        Args:
            classes: number of logits.
            like: the logits (B, classes); what a margin is against shows in them.
        """
        together = self._together()
        if together is not None:
            return together.weight_rows(self.targets, like)
        linear = [t.linear for t in self.targets]
        weights = like.new_zeros(len(self.targets), classes)
        for row, coefficients in enumerate(linear):
            if coefficients is None:
                return None
            for index, value in coefficients.items():
                if is_binary(like):  # class 1 is the one logit, class 0 is minus it
                    weights[row, 0] += value if index == 1 else -value
                else:
                    weights[row, index] = value
        return weights


def _as_target(target: Any, classes: int, labels: Sequence[str] | None, batch: int) -> Target:
    if isinstance(target, Target):
        return target.bind(classes, labels)
    if callable(target):
        return FunctionTarget(target, batch)
    return ClassTarget(target).bind(classes, labels)


def _is_list(target: Any) -> bool:
    return (isinstance(target, Sequence) and not isinstance(target, str | bytes)) or (
        hasattr(target, "__len__")
        and hasattr(target, "__getitem__")
        and not isinstance(target, str)
        and getattr(target, "ndim", 1) == 1
    )


def resolve(
    target: Any,
    output: Any,
    *,
    batch: int,
    labels: Sequence[str] | None = None,
    classes: Sequence[Any] | None = None,
) -> tuple[Column, ...]:
    """Return what is explained in a batch: one column, or one for each of `classes`.

    Args:
        target: None for each image's predicted class; an index, a label, a `Target`, a function
            of the model's output giving (B,), or a list with one of these per image.
        output: the model's output.
        batch: number of images.
        labels: the model's class names.
        classes: several targets for every image; excludes `target`.

    Raises:
        TargetError: a wrong count, an unknown label, a class out of range.
    """

    rows = with_batch(output, batch)

    def count() -> int:
        # a callable alone never needs to know where the logits are
        logits = logits_of(rows)
        if logits.shape[:1] != (batch,):
            raise TargetError(
                f"the logits in the model's output are {tuple(logits.shape)} for a batch of "
                f"{batch}; expected ({batch}, classes), one row an image (a loss or a mean of the "
                "batch is none). Say where they are with output=, or pass a function as target"
            )
        total = class_count(logits)
        check_labels(labels, total)
        return total

    def made(one: Any) -> Sequence[Target]:
        plain = callable(one) if not isinstance(one, Target) else not one.needs_logits
        return _as_target(one, 0 if plain else count(), labels, batch).matched(rows, batch, labels)

    if classes is not None:
        if target is not None:
            raise TargetError("pass target= (one per image) or classes= (several each), not both")
        if not _is_list(classes) or len(classes) == 0:
            raise TargetError(f"classes is a list of at least one class, got {classes!r}")
        return tuple(Column(tuple(made(c))) for c in classes)
    if target is None:
        total, logits = count(), flat_logits(rows)
        found = predicted(logits).tolist()
        shared = {i: ClassTarget(i).bind(total, labels) for i in set(found)}
        return (Column(tuple(shared[i] for i in found)),)
    if _is_list(target):
        if len(target) != batch:
            raise TargetError(
                f"{len(target)} targets for {batch} image{'s' * (batch != 1)}; give one per image, "
                "or a single one for all (several classes for every image: classes=[...])"
            )
        return (Column(tuple(made(t)[i] for i, t in enumerate(target))),)
    return (Column(tuple(made(target))),)
