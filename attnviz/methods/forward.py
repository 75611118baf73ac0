"""`ForwardPass`: one forward of a model, what it is asked about, and what was read on the way."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..errors import AttnvizError, AttnvizWarning, CaptureError, MethodError, TargetError
from ..hooks import (
    Capture,
    capture,
    differentiable_attention,
    wide,
    without_checkpointing,
)
from ..inputs import mismatch
from ..models import Layout, infer_layout
from ..models.outputs import logits_of, with_batch
from ..models.views import views_of
from ..registry import Entry
from ..targets import Column, resolve
from .heads import HeadProbe, LinearHead
from .request import RawMaps, Request


@dataclass(frozen=True, eq=False)
class ForwardPass:
    """One forward of a batch: the answer to a `Request`, which maps of every kind start from.

    Attributes:
        request: the model, the batch, and what was asked.
        output: what the model returned.
        columns: what is explained: one target for each image, K times.
        scores: K scores (B,), with their graph.
        logits: (B, classes), or (B, classes, ...) of a dense output, with their graph; None where
            the output holds none (a function as target needs none).
        activations: (B, C, h, w) of each layer read, by its dotted name.
        layouts: how each of these layers lays its output out.
        heads: the linear layer on a layer's average, for layers where that is all there is
            between layer and logits; only where it was asked for.
        views: V, of layers that see V views of each sample; their rows are (B * V).
    """

    request: Request
    output: Any
    columns: tuple[Column, ...]
    scores: tuple[Tensor, ...]
    logits: Tensor | None = None
    activations: Mapping[str, Tensor] = field(default_factory=dict)
    layouts: Mapping[str, Layout] = field(default_factory=dict)
    heads: Mapping[str, LinearHead] = field(default_factory=dict)
    views: Mapping[str, int] = field(default_factory=dict)
    captured: Capture | None = None

    def gradients(
        self, column: int = 0, *, read_off: bool = True, zeros: bool = False
    ) -> dict[str, Tensor]:
        """Return d score / d activation for one column of targets, {layer: (B, C, h, w)}.

        The graph is freed with the last column, unless the request keeps it (`create_graph`).

        Args:
            column: which targets.
            read_off: where a layer has its head in `heads`, take the gradient from the weights:
                exact, and one product instead of a backward pass. False differentiates.
            zeros: of several layers some may have no gradient at all, such as the levels of a
                pyramid that a box is not read from.

        Raises:
            MethodError: the score reads a prefix token only, so that the patches' gradient is
                exactly zero.
            CaptureError: the score has no graph, or does not depend on a layer.
        """
        found: dict[str, Tensor] = {}
        if self.heads and read_off and self.logits is not None:
            weights = self.columns[column].coefficients(self.logits.shape[1], self.logits)
            if weights is not None:
                for name, head in self.heads.items():
                    found[name] = head.gradient(weights, self.activations[name])
        if len(found) == len(self.activations):
            return found
        last = column == len(self.columns) - 1
        if self.captured is None:
            raise CaptureError("the pass read no layer, so there is no gradient of one")
        raw = self.captured.gradients(self.scores[column].sum(), retain_graph=not last, zeros=zeros)
        for name in self.activations:
            if name not in found:
                layout = self.layouts[name]
                found[name] = layout.to_spatial(raw[name])
                if not zeros:
                    _check_gradient(found[name], raw[name], layout, name, self.request.batch)
        return found

    def _which(self, layer: str) -> dict[str, int]:
        """Return which call of a layer its maps are of, where it was said."""
        call = self.request.call
        return {} if call is None or layer == "input" else {"call": call}

    @property
    def probabilities(self) -> Tensor | None:
        """(R,) the probability of each class explained, as `rows`; None where there is none."""
        if self.logits is None:
            return None
        found = [column.probability(self.logits) for column in self.columns]
        known = next((p for p in found if p is not None), None)
        if known is None:
            return None
        return rows([torch.full_like(known, torch.nan) if p is None else p for p in found])

    def raw_maps(
        self,
        entry: Entry,
        layer: str,
        values: Sequence[Tensor],
        meta: Mapping[str, Any] | None = None,
    ) -> RawMaps:
        """Return a method's maps with all that is known of them.

        Args:
            entry: the method.
            layer: where it was read.
            values: K maps (B, h, w), one for each column; (B * V, h, w) of a layer of views.
            meta: further facts, as JSON values.
        """
        kept = self.logits if self.logits is not None and self.logits.ndim < 3 else None
        if kept is not None and kept.ndim == 1:
            kept = kept[:, None]
        logits = None if kept is None else wide(rows([kept] * len(self.columns)))
        probability = self.probabilities
        keep, views = self.request.create_graph, self.views.get(layer, 1)

        def each(tensor: Tensor) -> Tensor:  # as often as the sample has views
            tensor = _kept(tensor, keep)
            return tensor if views == 1 else tensor.repeat_interleave(views, 0)

        maps = rows([value.unflatten(0, (-1, views)) for value in values]).flatten(0, 1)
        return RawMaps(
            method=entry.name,
            layer=layer,
            targets=_by_image((column.descriptions for column in self.columns), views),
            labels=_by_image((column.labels for column in self.columns), views),
            units=entry.meta.get("units", ""),
            meta={**(meta or {}), **({"views": views} if views > 1 else {}), **self._which(layer)},
            values=_kept(wide(maps), keep),
            score=each(wide(rows(self.scores))),
            logits=None if logits is None else each(logits),
            probability=None if probability is None else each(probability),
        )


def rows(columns: Sequence[Tensor]) -> Tensor:
    """Put K columns of B rows together, the rows of one image side by side: (B * K, ...)."""
    return torch.stack(list(columns), 1).flatten(0, 1)


def _kept(tensor: Tensor, graph: bool) -> Tensor:
    return tensor if graph else tensor.detach()


def _by_image(columns: Any, views: int) -> tuple[Any, ...]:
    return tuple(v for row in zip(*columns, strict=True) for v in row for _ in range(views))


def forward_pass(
    request: Request,
    *,
    layers: Sequence[str] = (),
    gradients: bool = True,
    heads: bool = False,
    views: bool = False,
    reading: Sequence[AbstractContextManager[Any]] = (),
    forward: Callable[[], Any] | None = None,
) -> ForwardPass:
    """Run the model once and return what it says, and what was read of it.

    The model runs in the mode it is in; `explain` holds it in evaluation and puts it back.

    Args:
        request: the model, the batch and the targets.
        layers: dotted names of layers whose activations are read.
        gradients: record what follows the first of these layers, for gradients.
        heads: find out which layers have nothing but their mean and a linear layer behind them.
        views: take layers that see one of several views of a sample in each row, too.
        reading: further context managers to open around the forward.
        forward: runs the model, if not `request.forward`.

    Raises:
        AttnvizError: the score of an image is not finite.
        TargetError: a wrong count, an unknown label, an output without logits.
        LayoutError: a layer's output has no positions.
    """
    run = partial(_run, request, layers, gradients, heads, reading, forward)
    output, columns, scores, captured, probe, recorded = run(prefix_graph=False)
    if gradients and layers and not request.create_graph and not recorded:
        # the model's own no_grad round the layer left recording off for what follows it
        output, columns, scores, captured, probe, _ = run(prefix_graph=True)
    check_finite(scores)
    logits = logits_or_none(output, request.batch)
    layouts: dict[str, Layout] = {}
    activations: dict[str, Tensor] = {}
    seen: dict[str, int] = {}
    if captured is not None:
        odd = [n for n, raw in captured.activations.items() if len(raw) != request.batch]
        seen = views_of(request.model, request.inputs, odd) if views and odd else {}
        for name, raw in captured.activations.items():
            rows_of = request.batch * seen.get(name, 1)
            stated = request.layout if len(raw) == rows_of else None
            layouts[name] = stated or infer_layout(
                request.model,
                captured.modules[name],
                raw,
                request.input_size,
                batch=rows_of,
            )
            activations[name] = layouts[name].to_spatial(raw)
    found: dict[str, LinearHead] = {}
    if probe is not None and logits is not None and logits.ndim == 2:
        alike = {n: a for n, a in activations.items() if n not in seen}
        candidates = {n: probe.head(a, logits) for n, a in alike.items()}
        found = {name: head for name, head in candidates.items() if head is not None}
    return ForwardPass(
        request, output, columns, scores, logits, activations, layouts, found, seen, captured
    )


def _run(
    request: Request,
    layers: Sequence[str],
    gradients: bool,
    heads: bool,
    reading: Sequence[AbstractContextManager[Any]],
    forward: Callable[[], Any] | None,
    *,
    prefix_graph: bool,
) -> tuple[Any, tuple[Column, ...], tuple[Tensor, ...], Capture | None, HeadProbe | None, bool]:
    captured = probe = None
    with ExitStack() as stack:
        stack.enter_context(without_checkpointing(request.model))
        if request.create_graph and gradients:
            stack.enter_context(differentiable_attention())
        if layers:
            captured = stack.enter_context(
                capture(
                    request.model,
                    list(layers),
                    create_graph=request.create_graph,
                    gradients=gradients or request.create_graph,
                    call=request.call,
                    prefix_graph=prefix_graph,
                )
            )
        if heads:
            probe = stack.enter_context(HeadProbe(request.model))
        for context in reading:
            stack.enter_context(context)
        try:
            output = (forward or request.forward)()
        except RuntimeError as error:
            why = mismatch(error, request.inputs, request.model)
            if why is None:
                raise
            raise why from error
        recorded = torch.is_grad_enabled()  # set by the layer, unless the model has undone it
        columns = resolve(
            request.target,
            output,
            batch=request.batch,
            labels=request.labels,
            classes=request.classes,
        )
        scores = tuple(column.score(output) for column in columns)
    return output, columns, scores, captured, probe, recorded


def logits_or_none(output: Any, batch: int) -> Tensor | None:
    """Return the logits in a model's output for a batch of that many images.

    None where it holds none or several that might be.
    """
    try:
        return logits_of(with_batch(output, batch))
    except TargetError:
        return None


def check_finite(scores: Sequence[Tensor]) -> None:
    """Raise for a score that is NaN or infinite, naming the image.

    Args:
        scores: each (B,).
    """
    for score in scores:
        values = score.tolist()  # once over to the CPU, as a comparison there would go
        bad = [row for row, value in enumerate(values) if not math.isfinite(value)]
        if bad:
            raise AttnvizError(
                f"the model's output is not finite (NaN or infinity) for image {bad[0]} of the "
                f"batch ({len(bad)} of {len(values)}); check the weights and the preprocessing"
            )


def _check_gradient(gradient: Tensor, raw: Tensor, layout: Layout, layer: str, batch: int) -> None:
    """A gradient that is exactly zero where the map is drawn makes an empty map by construction."""
    dead = (gradient == 0).reshape(batch, -1).all(1)  # of a sample's views one may be enough
    if not dead.any():
        return
    if layout.kind == "tokens" and layout.prefix and bool((raw[:, : layout.prefix] != 0).any()):
        raise MethodError(
            f"at layer {layer!r} the score reads the prefix token only: the gradient of every "
            "patch is exactly zero and so would be the map. Choose the layer before the last "
            "attention, such as the last block's first norm, or leave layer=None"
        )
    warnings.warn(
        f"the gradient of the score at layer {layer!r} is exactly zero for "
        f"{int(dead.sum())} of {len(dead)} images: their maps are empty (no evidence); check the "
        "target, or whether a saturated or dead unit stands behind the layer",
        AttnvizWarning,
        stacklevel=2,
    )
