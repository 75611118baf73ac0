"""What is explained: a class, a contrast of two, a probability, a region, or a function of yours.

A target turns the model's output into one number per image, the score; every map is a statement
about that score.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .errors import TargetError
from .models.classes import check_labels, class_index
from .models.outputs import (
    class_column,
    class_count,
    is_binary,
    logits_of,
    predicted,
    probabilities,
)


def _flat_logits(output: Any) -> Tensor:
    logits = logits_of(output)
    if logits.ndim == 1:
        logits = logits[:, None]
    if logits.ndim != 2:
        raise TargetError(
            f"a class target needs logits of shape (B, classes), got {tuple(logits.shape)}; for a "
            "dense output use RegionTarget(class, mask) or a function of the output"
        )
    return logits


class Target:
    """Base of all targets: `bind` looks labels up once, `score` reads the model's output."""

    #: {class index: coefficient} where the score is a linear function of the logits, else None
    linear: Mapping[int, float] | None = None
    index: int | None = None
    label: str = ""
    #: True where the score of one image cannot be told from its own row of the output
    whole_batch: bool = False

    def bind(self, classes: int, labels: Sequence[str] | None) -> Target:
        """Return this target with its labels turned into indices of a model's classes."""
        return self

    def copies(self, images: Sequence[int]) -> Target:
        """Return the target for altered copies: row r of the output is a copy of images[r]."""
        return self

    def score(self, output: Any) -> Tensor:
        """Return the score of every image of the batch, (B,)."""
        raise NotImplementedError

    def describe(self) -> Any:
        """Return what is explained as a JSON value: a class index where it is one."""
        return self.label if self.index is None else self.index


def _name(index: int, labels: Sequence[str] | None) -> str:
    return labels[index] if labels and index < len(labels) else f"class {index}"


@dataclass(frozen=True)
class ClassTarget(Target):
    """The logit of one class, by index or label."""

    cls: int | str
    index: int | None = None
    label: str = ""

    def bind(self, classes: int, labels: Sequence[str] | None) -> ClassTarget:
        """Return the target with its class index and label."""
        index = class_index(self.cls, classes, labels)
        return ClassTarget(self.cls, index, _name(index, labels))

    @property
    def linear(self) -> Mapping[int, float]:
        """The logit itself."""
        return {self.index: 1.0}

    def score(self, output: Any) -> Tensor:
        """Return the class's logits, (B,)."""
        return class_column(_flat_logits(output), self.index)


@dataclass(frozen=True)
class Probability(Target):
    """The probability of one class, in [0, 1]. Its gradient fades as it nears 1.

    Softmax, or sigmoid, as `attnviz.models.outputs.probabilities` finds.
    """

    cls: int | str
    index: int | None = None
    label: str = ""

    def bind(self, classes: int, labels: Sequence[str] | None) -> Probability:
        """Return the target with its class index and label."""
        index = class_index(self.cls, classes, labels)
        return Probability(self.cls, index, f"p({_name(index, labels)})")

    def score(self, output: Any) -> Tensor:
        """Return the class's probabilities, (B,)."""
        found = probabilities(_flat_logits(output))
        if found is None:
            raise TargetError(
                "the model has no probabilities (activation='none'); explain the class itself"
            )
        return found[:, self.index]

    def describe(self) -> Any:
        """Return the probability's name."""
        return f"p({self.index})"


@dataclass(frozen=True)
class Contrast(Target):
    """What speaks for one class rather than another: the difference of two logits."""

    cls: int | str
    other: int | str
    pair: tuple[int, int] | None = None
    label: str = ""

    def bind(self, classes: int, labels: Sequence[str] | None) -> Contrast:
        """Return the target with its two class indices and label."""
        a = class_index(self.cls, classes, labels)
        b = class_index(self.other, classes, labels)
        if a == b:
            raise TargetError(f"a contrast needs two classes, got {_name(a, labels)!r} twice")
        return Contrast(self.cls, self.other, (a, b), f"{_name(a, labels)} - {_name(b, labels)}")

    @property
    def linear(self) -> Mapping[int, float]:
        """One logit minus the other."""
        return {self.pair[0]: 1.0, self.pair[1]: -1.0}

    def score(self, output: Any) -> Tensor:
        """Return the differences of the two logits, (B,)."""
        logits = _flat_logits(output)
        return class_column(logits, self.pair[0]) - class_column(logits, self.pair[1])

    def describe(self) -> Any:
        """Return the two indices as text."""
        return f"{self.pair[0]} - {self.pair[1]}"


@dataclass(frozen=True, eq=False)
class RegionTarget(Target):
    """The mean logit of a class over a region of a dense output (B, classes, H, W).

    Args:
        cls: class index or label.
        mask: (H, W) or (B, H, W) region, non-zero inside, at the output's resolution; None is
            everywhere.
    """

    cls: int | str
    mask: Tensor | None = None
    index: int | None = None
    label: str = ""

    def bind(self, classes: int, labels: Sequence[str] | None) -> RegionTarget:
        """Return the target with its class index and label."""
        index = class_index(self.cls, classes, labels)
        return RegionTarget(self.cls, self.mask, index, f"{_name(index, labels)} (region)")

    def copies(self, images: Sequence[int]) -> RegionTarget:
        """Return the target with each copy's own region."""
        mask = None if self.mask is None else torch.as_tensor(self.mask)
        if mask is None or mask.ndim == 2:
            return self
        return replace(self, mask=mask[list(images)])

    def score(self, output: Any) -> Tensor:
        """Return the mean logits inside the region, (B,)."""
        logits = logits_of(output)
        if logits.ndim != 4:
            raise TargetError(
                f"a region target needs an output of shape (B, classes, H, W), got "
                f"{tuple(logits.shape)}; for a classifier use ClassTarget"
            )
        dense = class_column(logits, self.index)
        if self.mask is None:
            return dense.mean((1, 2))
        mask = torch.as_tensor(self.mask, device=dense.device)
        if mask.shape[-2:] != dense.shape[-2:]:
            raise TargetError(
                f"the region's mask is {tuple(mask.shape)}, the output {tuple(dense.shape)}: "
                "resize the mask to the output's resolution"
            )
        inside = (mask != 0).to(dense.dtype).expand_as(dense)
        area = inside.sum((1, 2))
        if (area == 0).any():
            raise TargetError("the region's mask is empty, so it has no score")
        return (dense * inside).sum((1, 2)) / area


class _Function(Target):
    def __init__(self, fn: Callable[[Any], Tensor], batch: int) -> None:
        self.fn = fn
        self.batch = batch
        name = getattr(fn, "__name__", type(fn).__name__)
        self.label = "custom score" if name == "<lambda>" else name
        # a function may hold something of each image, so it is given the batch as it stands
        self.whole_batch = batch > 1

    def copies(self, images: Sequence[int]) -> _Function:
        def each_batch(output: Any) -> Tensor:
            starts = range(0, len(images), self.batch)
            return torch.cat([self.score(_part(output, i, i + self.batch)) for i in starts])

        if self.batch == 1:
            return _Function(self.fn, len(images))
        if any(i != r % self.batch for r, i in enumerate(images)) or len(images) % self.batch:
            raise TargetError(
                f"the target function {self.label!r} scores a batch of {self.batch} as a whole, "
                "and a part of it was altered; explain the images one at a time"
            )
        return _Function(each_batch, len(images))

    def score(self, output: Any) -> Tensor:
        score = self.fn(output)
        if not isinstance(score, Tensor) or score.shape not in ((self.batch,), ()):
            got = tuple(score.shape) if isinstance(score, Tensor) else type(score).__name__
            raise TargetError(
                f"a target function gets the model's output for the whole batch and returns one "
                f"score per image, shape ({self.batch},); got {got}"
            )
        if score.ndim == 0 and self.batch > 1:
            raise TargetError(
                f"the target function returned one number for {self.batch} images; return one "
                "score per image"
            )
        return score.reshape(self.batch)


def _part(output: Any, start: int, stop: int) -> Any:
    """The rows start to stop of every tensor in a model's output."""
    if isinstance(output, Tensor):
        return output[start:stop]
    if isinstance(output, Mapping):
        return type(output)(**{str(k): _part(v, start, stop) for k, v in output.items()})
    if isinstance(output, tuple | list):
        parts = [_part(v, start, stop) for v in output]
        return type(output)(*parts) if hasattr(output, "_fields") else type(output)(parts)
    if is_dataclass(output) and not isinstance(output, type):
        return replace(output, **{k: _part(v, start, stop) for k, v in vars(output).items()})
    return output


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
        if all(t is self.targets[0] for t in self.targets):
            return self.targets[0].score(output)
        if all(isinstance(t, ClassTarget) for t in self.targets):
            logits = _flat_logits(output)
            if is_binary(logits):
                logits = torch.cat([-logits, logits], 1)
            index = torch.tensor([t.index for t in self.targets], device=logits.device)
            return logits.gather(1, index[:, None])[:, 0]
        together = self._together()
        if together is not None:
            return together.score_rows(self.targets, _flat_logits(output))
        scores: dict[int, Tensor] = {id(t): t.score(output) for t in self.targets}
        return torch.stack([scores[id(t)][i] for i, t in enumerate(self.targets)])

    def _together(self) -> Any:
        """The class of all targets where it reads a batch at once (`score_rows`), else None."""
        kinds = {type(t) for t in self.targets}
        return kinds.pop() if len(kinds) == 1 and hasattr(self.targets[0], "score_rows") else None

    def copies(self, output: Any, images: Sequence[int]) -> Tensor:
        """Return the scores of altered copies, row r of the output being a copy of images[r]."""
        made: dict[int, Target] = {}
        for target in self.targets:
            made.setdefault(id(target), target.copies(images))
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
        if any(t.linear is None for t in self.targets):
            return None
        weights = like.new_zeros(len(self.targets), classes)
        for row, target in enumerate(self.targets):
            for index, value in target.linear.items():
                if is_binary(like):  # class 1 is the one logit, class 0 is minus it
                    weights[row, 0] += value if index == 1 else -value
                else:
                    weights[row, index] = value
        return weights


def _as_target(target: Any, classes: int, labels: Sequence[str] | None, batch: int) -> Target:
    if isinstance(target, Target):
        return target.bind(classes, labels)
    if callable(target):
        return _Function(target, batch)
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

    def count() -> int:
        # a callable alone never needs to know where the logits are
        total = class_count(logits_of(output))
        check_labels(labels, total)
        return total

    if classes is not None:
        if target is not None:
            raise TargetError("pass target= (one per image) or classes= (several each), not both")
        if not _is_list(classes) or len(classes) == 0:
            raise TargetError(f"classes is a list of at least one class, got {classes!r}")
        return tuple(
            Column((_as_target(c, 0 if callable(c) else count(), labels, batch),) * batch)
            for c in classes
        )
    if target is None:
        logits, total = _flat_logits(output), count()
        found = predicted(logits).tolist()
        shared = {i: ClassTarget(i).bind(total, labels) for i in set(found)}
        return (Column(tuple(shared[i] for i in found)),)
    if _is_list(target):
        if len(target) != batch:
            raise TargetError(
                f"{len(target)} targets for {batch} image{'s' * (batch != 1)}; give one per image, "
                "or a single one for all (several classes for every image: classes=[...])"
            )
        needs = any(not callable(t) for t in target)
        total = count() if needs else 0
        return (Column(tuple(_as_target(t, total, labels, batch) for t in target)),)
    plain = callable(target) and not isinstance(target, Target)
    return (Column((_as_target(target, 0 if plain else count(), labels, batch),) * batch),)
