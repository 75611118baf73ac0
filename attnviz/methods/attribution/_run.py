"""Run attributions: one plain forward, then each method on as many images as memory allows."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import AttnvizWarning, MethodError
from ...registry import Entry
from ...targets import BoxTarget
from .. import RawMaps, Request, rectifies, taken_by
from ..altered import AlteredGroup, Passes, replacement
from ..forward import ForwardPass
from ..held import one_at_a_time
from ..twin import twin

#: a completeness gap larger than this share of the score difference is warned of
GAP = 0.05


@dataclass
class Job:
    """Some images of a batch that are explained together.

    Attributes:
        group: the images, and what is explained.
        model: the model, or a copy over the same weights that needs no gradient for them.
        rows: copies that a pass with a graph may take.
        gaps: (K, g) by how much the attributions miss the score difference, if a method knows.
    """

    group: AlteredGroup
    model: nn.Module
    rows: int
    request: Request
    gaps: list[Tensor] = field(default_factory=list)

    @property
    def inputs(self) -> Tensor:
        """The images (g, C, H, W)."""
        return self.group.inputs

    @property
    def classes(self) -> range:
        """The numbers of the columns that are explained."""
        return range(len(self.group.passes.columns))

    def score(self, k: int, model: nn.Module | None = None) -> Callable[[Tensor], Tensor]:
        """Return the function from n copies (n g, C, H, W) to their scores (n g,) for class k."""
        column, images = self.group.passes.columns[k], list(self.group.images)

        def scores(inputs: Tensor) -> Tensor:
            output = (model or self.model)(inputs)
            rows = images * (len(inputs) // len(images))
            return column.copies(output, rows, followed=True)

        return scores

    def gradient(self, inputs: Tensor, k: int) -> Tensor:
        """Return d score / d input of n copies (n g, C, H, W)."""
        inputs = inputs.detach().requires_grad_()
        with torch.enable_grad():
            total = self.score(k)(inputs).sum()
            if not total.requires_grad:
                raise MethodError(
                    "the score does not depend on the picture by any derivative; use a method "
                    "that runs the model only, such as rise or occlusion"
                )
            (found,) = torch.autograd.grad(total, inputs)
        return found

    def mean_gradient(
        self, k: int, copies: int, build: Callable[[int], Tensor], weigh: Callable[..., Tensor]
    ) -> Tensor:
        """Return the mean over copies of weigh(gradient, number): build(number) -> (g, C, H, W)."""
        images = len(self.inputs)
        total = torch.zeros_like(self.inputs)
        step = max(1, self.rows // images)
        for start in range(0, copies, step):
            numbers = range(start, min(copies, start + step))
            gradients = self.gradient(torch.cat([build(n) for n in numbers]), k)
            parts = gradients.split(images)
            total += sum(weigh(part, n) for part, n in zip(parts, numbers, strict=True))
        return total / copies

    def baseline(self, kind: str | Tensor, seed: int = 0) -> Tensor:
        """Return the baseline of these images by name; see `attnviz.metrics.baselines`."""
        return self.group.of(replacement(kind, self.group.passes.inputs, seed=seed))

    def complete(self, attributions: Sequence[Tensor], baseline: Tensor) -> None:
        """Note by how much the attributions (g, C, H, W) miss S(x) - S(baseline)."""
        with torch.no_grad():
            below = torch.stack([self.score(k)(baseline) for k in self.classes])
        reached = torch.stack([a.flatten(1).sum(1) for a in attributions])
        self.miss(reached, self.group.scores - below)

    def miss(self, reached: Tensor, wanted: Tensor) -> None:
        """Note the gap between what attributions (K, g) sum to and what they should."""
        self.gaps.append((reached - wanted).abs())
        scale = wanted.abs().clamp_min(1e-3 * float(self.group.scores.abs().max().clamp_min(1e-3)))
        share = float((self.gaps[-1] / scale).max())
        if share > GAP:
            targets = [t for c in self.group.passes.columns for t in c.targets]
            jumps = self.group.passes.logits is None and isinstance(targets[0], BoxTarget)
            warnings.warn(
                f"the attributions miss the score difference by up to {share:.0%} of it: "
                + (
                    "a detection comes and goes on the way from the baseline, and no number of "
                    "steps mends that; use saliency, a class activation map, occlusion or rise"
                    if jumps
                    else "more steps, or a method whose rules cover this network's operations, "
                    "come closer"
                ),
                AttnvizWarning,
                stacklevel=3,
            )


def run(request: Request, entries: Sequence[Entry]) -> list[RawMaps]:
    """Compute attributions; see `attnviz.methods` for the types.

    Raises:
        MethodError: inputs that are no pictures, a graph that is asked for.
    """
    if request.create_graph:
        raise MethodError(
            f"{entries[0].name} keeps no graph (create_graph=True); train on a CAM, such as "
            "method='gradcam'"
        )
    held = one_at_a_time(request, entries, run)
    if held is not None:
        return held
    passes = Passes(request, budget=request.options.get("budget"))
    with torch.no_grad():
        passes.first()
    passes.output = None
    try:
        model = twin(request.model)
    except MethodError:
        model = request.model
    rows = passes.graph_rows()
    found = []
    for entry in entries:
        options, drop = taken_by(entry, request.options), rectifies(entry, request.signed)
        jobs = [Job(group, model, rows, request) for group in passes.groups(rows)]
        maps = torch.cat([entry.fn(job, **options) for job in jobs], 1)
        meta: dict[str, Any] = {"class_specific": entry.meta["class_specific"]}
        gaps = [float(gap.max()) for job in jobs for gap in job.gaps]
        if gaps:
            meta["convergence_delta"] = max(gaps)
        found.append(_raw(entry, passes, maps.relu() if drop else maps, meta))
    return found


def _raw(entry: Entry, passes: Passes, maps: Tensor, meta: dict[str, Any]) -> RawMaps:
    done = ForwardPass(passes.request, None, passes.columns, tuple(passes.scores), passes.logits)
    return done.raw_maps(entry, "input", list(maps), meta)


def summed(attributions: Sequence[Tensor]) -> Tensor:
    """Return attributions, K of (g, C, H, W), summed over their channels: (K, g, H, W)."""
    return torch.stack([a.sum(1) for a in attributions])
