"""Run class activation maps: one forward and one tail backward serve all methods and layers."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import AttnvizError, AttnvizWarning, MethodError
from ...hooks import Capture, capture
from ...models import Layout, default_layer, infer_layout
from ...registry import Entry
from ...targets import Column, logits_of, resolve
from .. import RawMaps, Request, taken_by
from ..heads import HeadProbe, LinearHead


def _at_least_single(tensor: Tensor) -> Tensor:
    # maps of half-precision models are computed in float32: products of halves underflow
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


def _check_finite(score: Tensor) -> None:
    bad = ~torch.isfinite(score.detach())
    if bad.any():
        rows = bad.nonzero()[:, 0].tolist()
        raise AttnvizError(
            f"the model's output is not finite (NaN or infinity) for image {rows[0]} of the batch "
            f"({len(rows)} of {len(bad)}); check the weights and the preprocessing"
        )


def _check_gradient(gradient: Tensor, raw: Tensor, layout: Layout, layer: str) -> None:
    """A gradient that is exactly zero where the map is drawn makes an empty map by construction."""
    dead = (gradient == 0).flatten(1).all(1)
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


def _apply(
    entry: Entry,
    activation: Tensor,
    gradient: Tensor | None,
    signed: bool | None,
    options: Mapping[str, Any] | None = None,
) -> Tensor:
    options = taken_by(entry, options or {})
    if signed is not None:
        if "relu" not in entry.options:
            raise MethodError(f"method {entry.name!r} has no signed form; leave signed=None")
        options["relu"] = not signed
    gradient = None if gradient is None else _at_least_single(gradient)
    return entry.fn(_at_least_single(activation), gradient, **options)


@dataclass(frozen=True)
class _Pass:
    """One forward: what was read, how it is laid out, and what is explained."""

    cap: Capture
    output: Any
    columns: tuple[Column, ...]
    scores: list[Tensor]
    layouts: dict[str, Layout]
    spatial: dict[str, Tensor]
    heads: dict[str, LinearHead]

    def gradients(self, number: int) -> dict[str, Tensor]:
        """Return d score / d activation for one column of targets, {layer: (B, C, h, w)}."""
        found = {}
        if self.heads:
            # read off the weights: exact, one product instead of a backward pass
            logits = logits_of(self.output)
            weights = self.columns[number].coefficients(logits.shape[1], logits)
            if weights is not None:
                for name, head in self.heads.items():
                    found[name] = head.gradient(weights, self.spatial[name])
        if len(found) == len(self.spatial):
            return found
        last = number == len(self.columns) - 1
        raw = self.cap.gradients(self.scores[number].sum(), retain_graph=not last)
        for name in self.spatial:
            if name not in found:
                found[name] = self.layouts[name].to_spatial(raw[name])
                _check_gradient(found[name], raw[name], self.layouts[name], name)
        return found


def _forward(request: Request, entries: Sequence[Entry]) -> _Pass:
    layers = list(request.layers or [default_layer(request.model)])
    wants_gradient = any(e.meta["needs_gradient"] for e in entries)
    wants_head = any(e.meta["needs_linear_head"] for e in entries)
    with ExitStack() as stack:
        cap = stack.enter_context(
            capture(
                request.model,
                layers,
                create_graph=request.create_graph,
                gradients=wants_gradient or request.create_graph,
            )
        )
        probe = None
        if wants_head or request.classes is not None or request.create_graph:
            probe = stack.enter_context(HeadProbe(request.model))
        output = request.forward()
        columns = resolve(
            request.target,
            output,
            batch=request.batch,
            labels=request.labels,
            classes=request.classes,
        )
        scores = [column.score(output) for column in columns]
    for score in scores:
        _check_finite(score)
    modules = dict(request.model.named_modules())
    raw = cap.activations
    layouts = {
        name: request.layout
        or infer_layout(request.model, modules[name], tensor, request.input_size)
        for name, tensor in raw.items()
    }
    spatial = {name: layouts[name].to_spatial(tensor) for name, tensor in raw.items()}
    heads = {}
    if probe is not None and logits_of(output).ndim == 2:
        found = {name: probe.head(tensor, logits_of(output)) for name, tensor in spatial.items()}
        heads = {name: head for name, head in found.items() if head is not None}
    if wants_head:
        _require_heads(layers, heads, request.model, entries)
    return _Pass(cap, output, columns, scores, layouts, spatial, heads)


def _require_heads(
    layers: Sequence[str],
    heads: dict[str, LinearHead],
    model: nn.Module,
    entries: Sequence[Entry],
) -> None:
    for name in layers:
        if name not in heads:
            wanting = [e.name for e in entries if e.meta["needs_linear_head"]]
            raise MethodError(
                f"{', '.join(wanting)} needs logits that are one linear layer on the average of "
                f"layer {name!r}, and in {type(model).__name__} they are not. Use gradcam (the "
                "same map up to a factor where such a head exists), hirescam, or the layer that "
                "is average-pooled"
            )


def _rows(columns: Sequence[Tensor]) -> Tensor:
    """Put K columns of B rows together, the rows of one image side by side."""
    return torch.stack(list(columns), 1).flatten(0, 1)


def run(request: Request, entries: Sequence[Entry]) -> list[RawMaps]:
    """Compute class activation maps; see `attnviz.methods` for the types.

    Raises:
        MethodError: CAM on a model without a GAP + linear head behind the layer; a layer where
            the gradient is zero by construction.
        LayoutError: the layer's output has no spatial layout.
    """
    read = _forward(request, entries)
    grids: dict[tuple[str, str], list[Tensor]] = {}
    wants_gradient = any(e.meta["needs_gradient"] for e in entries)
    for number in range(len(read.columns)):
        gradients = read.gradients(number) if wants_gradient else {}
        for entry in entries:
            for name, activation in read.spatial.items():
                with torch.set_grad_enabled(request.create_graph):
                    values = _apply(
                        entry, activation, gradients.get(name), request.signed, request.options
                    )
                grids.setdefault((entry.name, name), []).append(values)

    score = _at_least_single(_rows(read.scores))
    if not request.create_graph:
        score = score.detach()
    return [
        RawMaps(
            entry.name,
            name,
            _rows(grids[entry.name, name]),
            score,
            tuple(
                d for row in zip(*(c.descriptions for c in read.columns), strict=True) for d in row
            ),
            tuple(t for row in zip(*(c.labels for c in read.columns), strict=True) for t in row),
            entry.meta["units"],
            {"layout": read.layouts[name].describe()},
        )
        for entry in entries
        for name in read.spatial
    ]
