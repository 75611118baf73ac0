"""The model's score of many altered images, in bounded batches, leaving the model as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ..batching import chosen_batch
from ..errors import MetricError
from ..models.outputs import Logits, class_column, is_binary, logits_of, probabilities
from ..targets import ClassTarget, Column, Target, resolve
from ._inputs import as_images
from .baselines import Baseline

SCORES = ("probability", "logit")


class Scorer:
    """Scores of images derived from a batch, each for the target of the image it came from.

    Attributes:
        x: (B, C, H, W) the images.
        original: (B,) their scores.
        index: class index of each image, or None where the target is no single class.
        rows: images that a forward pass takes at most.
    """

    def __init__(
        self,
        model: Callable[[Tensor], Any],
        x: Tensor,
        target: Any,
        score: str,
        batch_size: int | None,
    ) -> None:
        if score not in SCORES:
            raise MetricError(f"score={score!r}, expected one of {', '.join(SCORES)}")
        if batch_size is not None and batch_size < 1:
            raise MetricError(f"batch_size={batch_size}, expected at least 1")
        self.x = x
        self._model = model
        self._score = score
        # A matrix product of another batch shape differs in its last bits. In double precision on
        # the CPU, where results are to be exact, every image is therefore run alone.
        exact = x.dtype == torch.float64 and x.device.type == "cpu"
        self.rows = 1 if exact else batch_size or chosen_batch(x)
        self._function = target if _is_function(target) else None
        self.index: Tensor | None = None
        outputs = [self._run(part) for part in x.split(self.rows)]
        if self._function is None:
            (self._column,) = resolve(target, Logits(torch.cat(outputs)), batch=len(x))
            if all(isinstance(t, ClassTarget) for t in self._column.targets):
                classes = [t.index for t in self._column.targets]
                self.index = torch.tensor(classes, device=outputs[0].device)
            elif score == "probability":
                raise MetricError(
                    f"score='probability' needs a class per image, the target is "
                    f"{self._column.labels[0]!r}; use score='logit' to take its score as it is"
                )
        everything = torch.arange(len(x), device=x.device)
        self.original = torch.cat(
            [
                self._read(output, part)
                for output, part in zip(outputs, everything.split(self.rows), strict=True)
            ]
        )

    @property
    def targets(self) -> Any:
        """What each image is scored for, to hand on to another metric."""
        if self._function is not None:
            return self._function
        return list(self._column.targets)

    def _run(self, images: Tensor) -> Tensor:
        output = self._model(images)
        if self._function is not None:
            return self._function(output)
        logits = logits_of(output)
        return logits if logits.dtype == torch.float64 else logits.float()

    def _read(self, output: Tensor, image: Tensor) -> Tensor:
        if self._function is not None:
            if output.shape != image.shape:
                raise MetricError(
                    f"a target function gives one score per image, shape ({len(image)},); got "
                    f"{tuple(output.shape)}"
                )
            return output
        if self.index is None:
            column = Column(tuple(self._column.targets[i] for i in image.tolist()))
            return column.score(Logits(output))
        return class_scores(output, self.index[image], self._score)

    def __call__(self, image: Tensor, build: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the scores (N,) of N altered images.

        Args:
            image: (N,) which image of the batch each was made from.
            build: given job numbers (n,), n <= `rows`, returns the altered images (n, C, H, W).
                Called as they are needed, so no more than one batch of them exists.
        """
        scores = [
            self._read(self._run(build(jobs)), image[jobs])
            for jobs in torch.arange(len(image), device=image.device).split(self.rows)
        ]
        return torch.cat(scores) if scores else self.original.new_zeros(0)

    def without(
        self,
        index: Tensor,
        label: Tensor,
        baseline: Baseline,
        sets: int,
        chosen: Callable[[int, int], Tensor],
    ) -> Tensor:
        """Return what the score loses without sets of cells, (n, sets).

        Args:
            index: (n,) images of the batch.
            label: (H, W) the cell of every pixel.
            baseline: what stands where cells are removed.
            sets: how many for each image.
            chosen: given an image's place in `index` and a set's number, the cells removed.
        """
        row = torch.arange(len(index), device=index.device).repeat_interleave(sets)
        n = int(label.max()) + 1

        def build(jobs: Tensor) -> Tensor:
            keep = torch.ones(len(jobs), n, dtype=torch.bool, device=label.device)
            for into, job in zip(keep, jobs.tolist(), strict=True):
                into[chosen(*divmod(job, sets))] = False
            pixels = keep[:, label.flatten()].view(len(jobs), *label.shape)
            return baseline.apply(self.x, index[row[jobs]], pixels)

        after = self(index[row], build)
        return (self.original[index[row]] - after).view(len(index), sets)


def class_scores(logits: Tensor, index: Tensor, score: str) -> Tensor:
    """Return the logits (N,) or probabilities of class `index` (N,) from logits (N, classes).

    Which probabilities is decided by `attnviz.models.outputs.probabilities`: a single logit z is
    a binary classifier with sigmoid(z) for class 1 and the logits z and minus z.

    Raises:
        MetricError: no (N, classes); the model has no probabilities.
    """
    if logits.ndim != 2:
        raise MetricError(
            f"the model's output has shape {tuple(logits.shape)}, expected (B, classes); for a "
            "dense output pass a function of it as target"
        )
    if score == "probability":
        found = probabilities(logits)
        if found is None:
            raise MetricError("the model has no probabilities (activation='none'); score='logit'")
        logits = found
    elif is_binary(logits):
        logits = torch.cat([class_column(logits, 0)[:, None], logits], 1)
    return logits.gather(1, index[:, None])[:, 0]


def _is_function(target: Any) -> bool:
    return callable(target) and not isinstance(target, Target | type)


@contextmanager
def untouched(model: Any) -> Iterator[None]:
    """Evaluate a model without a graph and leave it as it was; a plain function needs no care."""
    from ..hooks.preserve import preserved

    keep = preserved(model, eval_mode=True) if isinstance(model, nn.Module) else nullcontext()
    with keep, torch.no_grad():
        yield


@contextmanager
def scoring(
    model: Callable[[Tensor], Any],
    x: Tensor,
    target: Any,
    *,
    score: str = "probability",
    batch_size: int | None = None,
) -> Iterator[Scorer]:
    """Give the `Scorer` of a model on a batch.

    Args:
        model: `model(x)` returns logits (B, classes), or anything `logits_of` reads.
        x: (B, C, H, W) the model's input.
        target: None (the predicted class), an index, a list, a `Target`, or a function of the
            model's output that returns (B,).
        score: "probability" or "logit".
        batch_size: images a forward pass at most; None chooses, few on a CPU.
    """
    with untouched(model):
        yield Scorer(model, as_images(x), target, score, batch_size)
