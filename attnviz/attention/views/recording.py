"""`record`: the attention of one sample in all layers and heads, small enough to hand around.

Weights are kept as one byte each with a float per row: w = (byte / 255)^2 * scale, scale being the
row's largest weight. No weight is off by more than 1/255 of its row's maximum, and small ones by
far less: where a class token takes most of a row, the patches are still told apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import AttentionUnavailable, DataError
from ...geometry import Geometry
from ...hooks import preserved, unwrap
from ..tap import Site, tap


@dataclass(frozen=True, eq=False, repr=False)
class LayerRecord:
    """One attention of one sample.

    Attributes:
        name: of the module.
        kind: "self", "cross", "window", ... as the tap calls it.
        codes: (W, H, Q, K) uint8; W groups of tokens (windows; 1 where all attend to all).
        scale: (W, H, Q) float32, the largest weight of each row.
        query_places, key_places: (W, Q), (W, K) int64, row * columns + column on the grid, -1 for
            tokens that are no patch; None where the tokens are no picture.
        query_grid, key_grid: (rows, columns), or None.
        query_tokens, key_tokens: names of the tokens, or None where they are patches.
    """

    name: str
    kind: str
    codes: np.ndarray
    scale: np.ndarray
    query_places: np.ndarray | None = None
    key_places: np.ndarray | None = None
    query_grid: tuple[int, int] | None = None
    key_grid: tuple[int, int] | None = None
    query_tokens: tuple[str, ...] | None = None
    key_tokens: tuple[str, ...] | None = None

    @property
    def heads(self) -> int:
        """Number of heads."""
        return self.codes.shape[1]

    def weights(self, head: int | str = "mean") -> np.ndarray:
        """Return weights (W, Q, K) float32 of one head, or their "mean" or "max" over heads."""
        if head in ("mean", "max"):
            found = None
            for number in range(self.heads):
                one = self.weights(number)
                if found is None:
                    found = one
                else:
                    found = found + one if head == "mean" else np.maximum(found, one)
            assert found is not None
            return found / self.heads if head == "mean" else found
        if isinstance(head, str) or not -self.heads <= head < self.heads:
            raise DataError(
                f"head {head!r} of {self.name!r}: expected 0 to {self.heads - 1}, 'mean' or 'max'"
            )
        share = self.codes[:, head].astype(np.float32) / 255
        return share * share * self.scale[:, head, :, None]

    def map(self, query: int, head: int | str = "mean") -> np.ndarray:
        """Return where a query attends, on the grid of the keys: (rows, columns) float32.

        Args:
            query: a place on the grid of the queries (row * columns + column), or a negative
                number for the tokens before the patches: -1 is the first (class) token.
            head: as in `weights`.

        Raises:
            DataError: the keys are no picture, or there is no such query.
        """
        if self.key_grid is None or self.key_places is None:
            raise DataError(f"the keys of {self.name!r} are no picture; draw its tokens instead")
        window, row = self.locate(query)
        weights = self.weights(head)[window, row]
        rows, columns = self.key_grid
        out = np.zeros(rows * columns, np.float32)
        inside = self.key_places[window] >= 0
        np.add.at(out, self.key_places[window][inside], weights[inside])
        return out.reshape(rows, columns)

    def locate(self, query: int) -> tuple[int, int]:
        """Return (window, row) of a query given as in `map`."""
        if self.query_places is None:
            if 0 <= query < self.codes.shape[2]:
                return 0, query
        elif query >= 0:
            found = np.argwhere(self.query_places == query)
            if len(found):
                return int(found[0][0]), int(found[0][1])
        elif self.codes.shape[0] == 1:
            special = np.flatnonzero(self.query_places[0] < 0)
            if -query <= len(special):
                return 0, int(special[-query - 1])
        raise DataError(
            f"query {query} of {self.name!r} does not exist: patches are 0 to "
            f"{0 if self.query_grid is None else self.query_grid[0] * self.query_grid[1] - 1}, "
            "class and register tokens -1, -2, ..."
        )


@dataclass(frozen=True, eq=False, repr=False)
class AttentionRecord:
    """The attention of one sample; made by `record`.

    Attributes:
        layers: in the order of the forward pass.
        image: (h, w, 3) uint8, what the model's input shows, or None.
        model: the model's name.
        missed: attention that could not be read, as text.
    """

    layers: tuple[LayerRecord, ...]
    image: np.ndarray | None = None
    model: str = ""
    missed: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"AttentionRecord({len(self.layers)} layers of {self.model or 'a model'})"


def record(
    model: nn.Module,
    inputs: Tensor | Mapping[str, Any],
    *,
    tokens: Sequence[str] | None = None,
    source_tokens: Sequence[str] | None = None,
    image: np.ndarray | None = None,
    geometry: Geometry | None = None,
    layers: Sequence[str] | None = None,
    name: str = "",
) -> AttentionRecord:
    """Run a model on one sample and keep its attention for figures and the page.

    The model is left as it was.

    Args:
        model: any model that `attention.tap` reads.
        inputs: its input for one sample: a tensor (1, ...), or keyword arguments.
        tokens: names of the tokens, for text: of the queries, and of the keys where the
            attention is among one sequence.
        source_tokens: names of the keys of cross-attention.
        image: the photo, (H, W, 3) uint8, to draw on.
        geometry: where the input lies on the photo; the photo is cut to it.
        layers: only the sites whose module name is, or ends in, one of these.
        name: of the model, for captions.

    Raises:
        AttentionUnavailable: the model has no readable attention, or none of these layers.
        DataError: more than one sample, or names that are not as many as tokens.
    """
    module = unwrap(model)
    count = _count(inputs)
    if count != 1:
        raise DataError(f"a record holds one sample, got a batch of {count}; pass inputs[:1]")
    with preserved(module), torch.no_grad(), tap(module, keep="qk") as taken:
        module(**inputs) if isinstance(inputs, Mapping) else module(inputs)
    sites = [s for s in taken.attention if s.kind not in ("channel", "pooling") and s.queries]
    if layers is not None:
        known = sorted({s.name for s in sites})
        sites = [s for s in sites if any(_names(s.name, wanted) for wanted in layers)]
        if not sites:
            raise AttentionUnavailable(
                f"no attention in layers {list(layers)}; this model has it in {', '.join(known)}"
            )
    if not sites:
        raise AttentionUnavailable(
            "no attention between tokens or patches was read; what there is (channel attention, "
            "gates) is listed by attnviz.attention.tap(model).sites"
        )
    if image is not None and geometry is not None:
        image = _seen(image, geometry)
    return AttentionRecord(
        tuple(_layer(site, tokens, source_tokens) for site in sites),
        image,
        name or type(module).__name__,
        tuple(map(str, taken.missed)),
    )


def _names(site: str, wanted: str) -> bool:
    return site == wanted or site.endswith("." + wanted) or site.startswith(wanted + ".")


def _count(inputs: Any) -> int:
    if isinstance(inputs, Tensor):
        return len(inputs) if inputs.ndim else 1
    sizes = [len(v) for v in inputs.values() if isinstance(v, Tensor) and v.ndim]
    return sizes[0] if sizes else 1


def _seen(image: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Return what the model's input shows of the photo; beyond its edges grey."""
    left, top, right, bottom = (round(v) for v in geometry.crop)
    height, width = image.shape[:2]
    out = np.full((bottom - top, right - left, 3), 128, np.uint8)
    y0, y1, x0, x1 = max(top, 0), min(bottom, height), max(left, 0), min(right, width)
    out[y0 - top : y1 - top, x0 - left : x1 - left] = image[y0:y1, x0:x1]
    return out


def _layer(
    site: Site, tokens: Sequence[str] | None, source_tokens: Sequence[str] | None
) -> LayerRecord:
    weights = site.weights().float().cpu()
    top = weights.amax(-1)
    codes = weights.div(top.clamp_min(1e-30)[..., None]).sqrt().mul(255).round().to(torch.uint8)
    found: dict[str, Any] = {}
    for side in ("query", "key"):
        try:
            places = site.places("queries" if side == "query" else "keys")
        except AttentionUnavailable:
            continue
        if 1 in places.grid:
            continue  # a line of tokens is text
        found[f"{side}_places"] = places.position.expand(len(weights), -1).cpu().numpy()
        found[f"{side}_grid"] = places.grid
    if "query_grid" not in found:
        found["query_tokens"] = _named(tokens, site.queries, site, "queries")
    if "key_grid" not in found:
        given = source_tokens if site.kind == "cross" and source_tokens is not None else tokens
        found["key_tokens"] = _named(given, site.keys, site, "keys")
    return LayerRecord(site.name, site.kind, codes.numpy(), top.numpy(), **found)


def _named(names: Sequence[str] | None, count: int, site: Site, what: str) -> tuple[str, ...]:
    if names is None:
        return tuple(str(i) for i in range(count))
    if len(names) != count:
        raise DataError(
            f"{len(names)} token names for {count} {what} of {site.name!r}; give one per token, "
            "special tokens included"
        )
    return tuple(map(str, names))
