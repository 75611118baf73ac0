"""Scores of many altered copies of a batch, in passes that fit into memory."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import AttnvizWarning, MethodError
from ..hooks.threads import own_thread
from ..targets import Column, resolve
from .forward import check_finite, logits_or_none
from .progress import counting
from .request import Request

#: bytes that a pass's activations may take where nothing else is said; on a CPU larger blocks cost
#: more time than larger batches save: three to five photos of 224 pixels are fastest
CPU_BUDGET = 64 * 2**20
#: a pass that records a graph takes about as many times the memory of one that does not
GRAPH = 4


class Passes:
    """A batch, its plain forward pass, and forward passes of altered copies of it.

    Copies stand mask by mask: row r of a pass is a copy of image r % images.

    Attributes:
        inputs: (B, C, H, W).
        columns: what is explained, K columns of B targets.
        scores: (K, B) of the images as they are.
        output: the model's output.
        logits: (B, classes, ...) in it, or None.
    """

    def __init__(self, request: Request, *, budget: int | None = None) -> None:
        if not isinstance(request.inputs, Tensor) or request.inputs.ndim < 3:
            got = type(request.inputs).__name__
            if isinstance(request.inputs, Tensor):
                got = str(tuple(request.inputs.shape))
            raise MethodError(f"pictures (B, C, H, W) are altered by this method, got {got}")
        if budget is not None and budget < 1:
            raise MethodError(f"budget={budget} is in bytes, at least 1")
        self.request = request
        self.inputs: Tensor = request.inputs
        self._rows: int | None = None
        self._budget = budget
        self._each = 0
        self._halved = False
        self.output: Any = None
        self.columns: tuple[Column, ...] = ()
        self.scores = torch.empty(0)
        self.logits: Tensor | None = None

    def first(self, forward: Callable[[], Any] | None = None) -> Passes:
        """Run the images as they are, and find out what is explained and what a pass takes."""
        self._each, self.output = _measured(self.request.model, forward or self.request.forward)
        self._each = max(self._each // self.request.batch, 1)
        self.columns = resolve(
            self.request.target,
            self.output,
            batch=self.request.batch,
            labels=self.request.labels,
            classes=self.request.classes,
        )
        self.scores = torch.stack([c.score(self.output).detach() for c in self.columns])
        check_finite(tuple(self.scores))
        self.logits = logits_or_none(self.output, self.request.batch)
        return self

    def groups(self, size: int = 1) -> list[AlteredGroup]:
        """Return the images, `size` at a time, or all where a target needs the whole batch."""
        count = self.request.batch
        if any(t.whole_batch for c in self.columns for t in c.targets):
            size = count
        return [AlteredGroup(self, range(i, min(i + size, count))) for i in range(0, count, size)]

    def rows(self) -> int:
        """Return how many copies a pass takes."""
        if self._rows is None:
            budget = self._budget
            if budget is None and self.inputs.is_cuda:
                budget = torch.cuda.mem_get_info(self.inputs.device)[0] // 4
            self._rows = max(1, (budget or CPU_BUDGET) // self._each)
        return self._rows

    def graph_rows(self) -> int:
        """Return how many copies a pass takes that records a graph."""
        rows = self.rows() // GRAPH
        if self._budget is None and not self.inputs.is_cuda:
            rows = max(rows, min(4, self.rows()))  # one at a time costs a fifth more
        return max(1, rows)

    def halve(self, error: RuntimeError) -> None:
        """Take half as many copies from now on; raise the error again if it was one."""
        if not _out_of_memory(error) or self.rows() == 1:
            raise error
        if self.inputs.is_cuda:
            torch.cuda.empty_cache()
        if not self._halved:
            warnings.warn(
                f"{self.rows()} copies at once do not fit into memory: going on with half as many, "
                "or fewer. budget=BYTES says what a pass may take",
                AttnvizWarning,
                stacklevel=2,
            )
        self._halved = True
        self._rows = self.rows() // 2

    def run(self, images: Tensor) -> Any:
        """Call the model without a graph."""
        with torch.no_grad():
            return self.request.model(images)


class AlteredGroup:
    """Some images of the batch that are altered together."""

    def __init__(self, passes: Passes, images: range) -> None:
        self.passes = passes
        self.images = images
        self.inputs = passes.inputs[images.start : images.stop]
        self.scores = passes.scores[:, images.start : images.stop]

    def generator(self, seed: int) -> torch.Generator:
        """Return a generator on the CPU; the same numbers for every image and device."""
        return torch.Generator().manual_seed(seed)

    def of(self, maps: Tensor) -> Tensor:
        """Return the part of something (B, ...) that belongs to these images."""
        return maps[self.images.start : self.images.stop]

    def score(self, output: Any, copies: int) -> Tensor:
        """Return the scores (K, copies, g) in a model's output for copies of the images."""
        index = [i for _ in range(copies) for i in self.images]
        found = [column.copies(output, index).detach() for column in self.passes.columns]
        return torch.stack(found).unflatten(1, (copies, len(self.images)))

    def each(
        self,
        copies: int,
        build: Callable[[int, int], Tensor],
        what: str,
        run: Callable[[Tensor], Any] | None = None,
    ) -> Iterator[tuple[int, int, Tensor]]:
        """Yield (start, stop, scores (K, stop - start, g)) for copies start to stop.

        Args:
            copies: number of copies of each image.
            build: given start and stop, the altered copies (stop - start, g, C, H, W); called as
                they are needed, and anew with fewer where they did not fit into memory.
            what: is being done, for a progress bar.
            run: what is called on the copies, by default the model.
        """
        size = len(self.images)
        start = 0
        with counting(what, copies * size) as done:
            while start < copies:
                stop = min(copies, start + max(1, self.passes.rows() // size))
                try:
                    images = build(start, stop).flatten(0, 1)
                    scores = self.score((run or self.passes.run)(images), stop - start)
                except RuntimeError as error:
                    self.passes.halve(error)
                    continue
                yield start, stop, scores
                done((stop - start) * size)
                start = stop


def _measured(model: nn.Module, forward: Callable[[], Any]) -> tuple[int, Any]:
    """Return the bytes that a forward pass without a graph holds at most, and its output.

    What is held while a layer runs is taken as its input, its output, and as much again for a
    skip connection and workspace.
    """
    most = 0

    @own_thread
    def note(module: nn.Module, inputs: Any, output: Any) -> None:
        nonlocal most
        found = [t for t in (*inputs, output) if isinstance(t, Tensor)]
        most = max(most, 2 * sum(t.nbytes for t in found))

    leaves = [m for m in model.modules() if next(m.children(), None) is None]
    handles = [m.register_forward_hook(note) for m in leaves]
    try:
        output = forward()
    finally:
        for handle in handles:
            handle.remove()
    return most, output


def _out_of_memory(error: RuntimeError) -> bool:
    text = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or (
        "memory" in text and ("allocate" in text or "out of" in text)
    )


def replacement(kind: str | Tensor, inputs: Tensor, *, seed: int = 0) -> Tensor:
    """Return what stands where an image was taken away, (B, C, H, W).

    Args:
        kind: "zero", "mean", "blur", "noise" or a tensor; see `attnviz.metrics.baselines`.
        inputs: (B, C, H, W).
        seed: of the noise.

    Raises:
        MethodError: "imputed", which is another image for every mask.
    """
    from ..metrics.baselines import baseline

    made = baseline(kind, inputs, seed=seed)
    if made.values is None:
        raise MethodError(
            f"baseline={kind!r} depends on what is taken away; use 'zero', 'mean', 'blur', "
            "'noise' or a tensor like the images"
        )
    return made.values
