"""What is explained: a class, a contrast of two, a probability, a region, or a function of yours.

A target turns the model's output into one number per image, the score; every map is a statement
about that score.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..errors import TargetError
from ..models.classes import class_index
from ..models.outputs import (
    class_column,
    logits_of,
    probabilities,
)

T = TypeVar("T")


def bound(value: T | None) -> T:
    """Return what a target knows of a model once it is bound to it; `TargetError` before."""
    if value is None:
        raise TargetError(
            "the target is not bound to a model's classes: target.bind(count, labels)"
        )
    return value


def flat_logits(output: Any) -> Tensor:
    """Return logits (B, classes) in a model's output; a dense output raises `TargetError`."""
    logits = logits_of(output)
    if logits.ndim == 1:
        logits = logits[:, None]
    if logits.ndim != 2:
        what = (
            f"a class target needs logits of shape (B, classes), got {tuple(logits.shape)}; for a "
        )
        raise TargetError(
            f"{what}dense output use RegionTarget(class, mask), a detector's 'box:0' or a function "
            "of the output",
            command=f"{what}dense output say --target region:mask.png@CLASS, pixel:X,Y@CLASS, or "
            "box:0 of a detector",
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
    #: False where the model's output need hold no logits of an image
    needs_logits: bool = True

    def bind(self, classes: int, labels: Sequence[str] | None) -> Target:
        """Return this target with its labels turned into indices of a model's classes."""
        return self

    def matched(self, output: Any, batch: int, labels: Sequence[str] | None) -> Sequence[Target]:
        """Return one target for each image; another one each where it is found in the output."""
        return (self,) * batch

    def copies(self, images: Sequence[int]) -> Target:
        """Return the target for altered copies: row r of the output is a copy of images[r]."""
        return self

    def followed(self, images: Sequence[int]) -> Target:
        """Return the target for copies on a way that is differentiated, such as to a baseline."""
        return self.copies(images)

    def score(self, output: Any) -> Tensor:
        """Return the score of every image of the batch, (B,)."""
        raise NotImplementedError

    def describe(self) -> Any:
        """Return what is explained as a JSON value: a class index where it is one."""
        return self.label if self.index is None else self.index


def class_name(index: int, labels: Sequence[str] | None) -> str:
    """Return what a class is called, by its label where that is known."""
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
        return ClassTarget(self.cls, index, class_name(index, labels))

    @property
    def linear(self) -> Mapping[int, float]:
        """The logit itself."""
        return {bound(self.index): 1.0}

    def score(self, output: Any) -> Tensor:
        """Return the class's logits, (B,)."""
        return class_column(flat_logits(output), bound(self.index))


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
        return Probability(self.cls, index, f"p({class_name(index, labels)})")

    def score(self, output: Any) -> Tensor:
        """Return the class's probabilities, (B,)."""
        found = probabilities(flat_logits(output))
        if found is None:
            raise TargetError(
                "the model has no probabilities (activation='none'); explain the class itself"
            )
        return found[:, bound(self.index)]

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
            raise TargetError(f"a contrast needs two classes, got {class_name(a, labels)!r} twice")
        return Contrast(
            self.cls, self.other, (a, b), f"{class_name(a, labels)} - {class_name(b, labels)}"
        )

    @property
    def linear(self) -> Mapping[int, float]:
        """One logit minus the other."""
        a, b = bound(self.pair)
        return {a: 1.0, b: -1.0}

    def score(self, output: Any) -> Tensor:
        """Return the differences of the two logits, (B,)."""
        logits, (a, b) = flat_logits(output), bound(self.pair)
        return class_column(logits, a) - class_column(logits, b)

    def describe(self) -> Any:
        """Return the two indices as text."""
        return "{} - {}".format(*bound(self.pair))


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
        return RegionTarget(self.cls, self.mask, index, f"{class_name(index, labels)} (region)")

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
        dense = class_column(logits, bound(self.index))
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


class FunctionTarget(Target):
    """A user's function of the model's output for a batch, which returns (B,) scores."""

    def __init__(self, fn: Callable[[Any], object], batch: int) -> None:
        self.fn = fn
        self.batch = batch
        name = getattr(fn, "__name__", type(fn).__name__)
        self.label = "custom score" if name == "<lambda>" else name
        # a function may hold something of each image, so it is given the batch as it stands
        self.whole_batch = batch > 1

    def copies(self, images: Sequence[int]) -> FunctionTarget:
        """Return the target for copies of the images, whole batches of them at a time."""

        def each_batch(output: Any) -> Tensor:
            starts = range(0, len(images), self.batch)
            return torch.cat([self.score(_part(output, i, i + self.batch)) for i in starts])

        if self.batch == 1:
            return FunctionTarget(self.fn, len(images))
        if any(i != r % self.batch for r, i in enumerate(images)) or len(images) % self.batch:
            raise TargetError(
                f"the target function {self.label!r} scores a batch of {self.batch} as a whole, "
                "and a part of it was altered; explain the images one at a time"
            )
        return FunctionTarget(each_batch, len(images))

    def score(self, output: Any) -> Tensor:
        """Return the scores (B,) that the function gives, their shape checked."""
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
