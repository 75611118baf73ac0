"""What the tap found: `Site`, one attention, and `Gate`, one multiplication by weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import AttentionUnavailable
from ._layout import Fold, stated_line
from ._places import Places, history, places_of, positions_of
from .fold import (
    Index,
    bias_rows,
    cell_bytes,
    grouped,
    indices,
    row_chunks,
    shift,
    softmax_logits,
    take,
    take_heads,
    wide,
)
from .tags import Rearranged


@dataclass(frozen=True, eq=False)
class SiteLayout:
    """What a site knows of its tokens' way from the picture."""

    fold: Fold
    moved: tuple[Any, Any]
    modules: tuple[nn.Module, ...]
    memo: dict[Any, Places | None]
    raw: Tensor | None = None
    arrange: Callable[[Tensor], Tensor] | None = None
    arranged: bool = False  # `arrange` gives (B, H, Q, Ev) at once
    order: Tensor | None = None  # of the model's tokens, see `in_order`


@dataclass(frozen=True, eq=False, repr=False)
class Site:
    """One attention: A = softmax(scale Q Kᵀ + mask), O = A V, for a batch.

    Windows (Swin) and other groups that a model folds into its batch stay folded: `batch` counts
    images times `windows`, all windows of an image beside each other.

    Attributes:
        index: position among all sites, in the order of the forward pass.
        name: dotted name of the module in which it ran ("" for the model itself).
        kind: "self", "cross", "window" (local groups), "channel" (channels attend channels) or
            "pooling" (a few latent queries, or none, gather the tokens). It is told by where
            queries and keys come from.
        source: what was intercepted, "sdpa", "matmul" or "einsum".
        step: which forward pass of the model inside the `with` block, from 0.
        call: how many sites this module gave before in the same step.
        batch, heads, queries, keys: sizes (B, H, Q, K).
        windows: groups of tokens per image that are folded into the batch (1: none).
        scale: factor of the logits.
        causal: query i attends keys 0..i only.
        mask: broadcastable to (B, H, Q, K), bool (True attends) or float (added), or None.
        q, k, v: (B, H, Q, E), (B, G, K, E), (B, G, K, Ev), G dividing H; None if not kept.
        output: O, (B, H, Q, Ev), or None if not kept.
        probabilities: A itself, (B, H, Q, K), where the model wrote its softmax out. It is
            taken before dropout.
        dropped: attention dropout was active, so O differs from A V.
        images: batch size of the model's input, B / windows.
        picture: (height, width) of the model's input in pixels, None where it is no image.
        mixed: the model did more than a softmax before V (mixed heads, renormalised, added), so
            rows need not sum to 1.
        pooled: the logits were projected from the tokens one by one, no query was compared.
        function: what made the weights: "softmax", "sigmoid" or "relu".
        stated: (rows, columns) of the patches as the user said it, see `with_grid`.
    """

    index: int
    name: str
    kind: str
    source: str
    step: int
    call: int
    batch: int
    heads: int
    queries: int
    keys: int
    windows: int = 1
    scale: float = 1.0
    causal: bool = False
    mask: Tensor | None = None
    q: Tensor | None = None
    k: Tensor | None = None
    v: Tensor | None = None
    output: Tensor | None = None
    probabilities: Tensor | None = None
    dropped: bool = False
    images: int = 1
    picture: tuple[int, int] | None = None
    mixed: bool = False
    pooled: bool = False
    function: str = "softmax"
    stated: tuple[int, int] | None = None
    _versions: tuple[tuple[str, Tensor, int], ...] = ()
    _layout: SiteLayout | None = None

    def __repr__(self) -> str:
        extra = f", windows={self.windows}" if self.windows > 1 else ""
        extra += ", causal" if self.causal else ""
        return (
            f"Site({self.index}, {self.name!r}, {self.kind}, batch={self.batch}, "
            f"heads={self.heads}, queries={self.queries}, keys={self.keys}{extra})"
        )

    def weights(
        self, *, rows: Index = None, heads: Index = None, budget: int | None = None
    ) -> Tensor:
        """Return attention weights, computed now: (B, heads, rows, K), each >= 0.

        Args:
            rows: query rows: an index, a slice, several indices, or None for all.
            heads: likewise for heads.
            budget: bytes that the temporary logits may take at once (default 64 MiB); the
                result itself is what was asked for.

        Returns:
            Float32 (float64 if the model is), differentiable with respect to q and k if the tap
            kept the graph. A row that may attend to nothing is zero.

        Raises:
            AttentionUnavailable: q and k were not kept, or were overwritten since.
            IndexError: a row or head that does not exist.
        """
        self._check("q", "k", "mask", "probabilities")
        row_index = indices(rows, self.queries, "rows", self.name)
        head_index = indices(heads, self.heads, "heads", self.name)
        if self.probabilities is not None:
            return wide(take(take(self.probabilities, 1, head_index), 2, row_index))
        if self.q is None or self.k is None:
            raise AttentionUnavailable(
                f"site {self.name!r} has no queries and keys: the tap kept {self._kept()}; "
                "use attnviz.attention.tap(model, keep='qk')"
            )
        q = take(take(self.q, 1, head_index), 2, row_index)
        k = take_heads(self.k, self.heads, head_index)
        mask = None if self.mask is None else take_heads(self.mask, self.heads, head_index)
        total = q.shape[2]
        row_bytes = 4 * q.shape[0] * q.shape[1] * self.keys
        parts = []
        whole = isinstance(row_index, slice)
        for chunk in row_chunks(total, row_bytes, budget):
            where: Tensor | slice
            where = slice(*shift(row_index, chunk, self.queries)) if whole else row_index[chunk]
            bias = bias_rows(mask, where, self.causal, self.keys, self.queries, q.device)
            parts.append(softmax_logits(q[:, :, chunk], k, bias, self.scale))
        if not parts:
            return wide(q).new_zeros((*q.shape[:3], self.keys))
        return parts[0] if len(parts) == 1 else torch.cat(parts, 2)

    def chunks(self, *, budget: int | None = None) -> Iterator[tuple[slice, Tensor]]:
        """Yield (rows, weights (B, H, R, K)) until every row was seen, see `row_chunks`."""
        for chunk in self.row_chunks(budget=budget):
            yield chunk, self.weights(rows=chunk, budget=budget)

    def row_chunks(self, *, budget: int | None = None) -> Iterator[slice]:
        """Yield slices of all rows, weights and what makes them in a budget (default 64 MiB)."""
        yield from row_chunks(self.queries, self.heads * self.row_bytes, budget)

    @property
    def row_bytes(self) -> int:
        """Bytes that one row of one head takes while its weights are computed."""
        added = None if self.probabilities is not None else self.mask is not None
        return cell_bytes(self._held(), added, self.causal) * self.batch * self.keys

    def _held(self) -> Tensor:
        found = self.q if self.q is not None else self.probabilities
        if found is None:
            raise AttentionUnavailable(
                f"site {self.name!r} has neither queries nor weights: the tap kept {self._kept()}"
            )
        return found

    def values(self) -> Tensor:
        """Return V, one head per query head where heads share values: (B, H or 1, K, Ev)."""
        self._check("v")
        if self.v is None:
            raise AttentionUnavailable(
                f"site {self.name!r} has no values: the tap kept {self._kept()}; "
                "use attnviz.attention.tap(model)"
            )
        reference = self.q if self.q is not None else self.probabilities
        assert reference is not None
        return grouped(reference, self.v)

    def error(self) -> float:
        """Return max |A V - O|: how exactly these weights give what the model computed.

        NaN where attention dropout was active, since O is then not A V.

        Raises:
            AttentionUnavailable: V or O was not kept.
        """
        if self.output is None:
            raise AttentionUnavailable(
                f"site {self.name!r} has no output: the tap kept {self._kept()}; "
                "use attnviz.attention.tap(model)"
            )
        if self.dropped:
            return float("nan")
        self._check("output")
        worst = 0.0
        with torch.no_grad():
            v = wide(self.values())
            for rows, weights in self.chunks():
                gap = (weights @ v.to(weights.dtype) - wide(self.output[:, :, rows])).abs()
                if gap.numel():
                    worst = max(worst, gap.max().item())
        return worst

    @property
    def raw_output(self) -> Tensor:
        """O as the model computed it, in its graph: what to differentiate with respect to.

        `output` is the same values in the layout (B, H, Q, Ev), beside the graph's way to the
        model's output.

        Raises:
            AttentionUnavailable: the tap did not keep the graph.
        """
        if self._layout is None or self._layout.raw is None:
            raise AttentionUnavailable(
                f"site {self.name!r} has no graph; use attnviz.attention.tap(model, graph=True)"
            )
        return self._layout.raw

    def fold_output(self, tensor: Tensor) -> Tensor:
        """Return a tensor laid out like `raw_output`, such as its gradient, as (B, H, Q, Ev)."""
        if self._layout is None:
            return tensor
        arrange, fold = self._layout.arrange, self._layout.fold
        tensor = tensor if arrange is None else arrange(tensor)
        if not self._layout.arranged:
            tensor = fold.unpack(fold.apply(tensor))
        return tensor if self.order is None else take(tensor, 2, self.order)

    @property
    def order(self) -> Tensor | None:
        """(K,) which of the model's tokens each one is, None where they stand as in the model."""
        return None if self._layout is None else self._layout.order

    def with_grid(self, grid: tuple[int, int]) -> Site:
        """Return the site with the grid of its patches stated: the last rows * columns keys.

        For models whose way from the picture to the tokens could not be followed.

        Raises:
            ValueError: there are not so many keys.
        """
        rows, columns = (int(n) for n in grid)
        if rows < 1 or columns < 1 or rows * columns > self.keys:
            raise ValueError(
                f"grid={tuple(grid)}: site {self.name!r} has {self.keys} keys, expected at most "
                "as many patches"
            )
        return replace(self, stated=(rows, columns))

    @property
    def prefix(self) -> int:
        """Class, distillation and register tokens before the patches, among the keys."""
        return self._picture_of("keys")[0]

    @property
    def grid(self) -> tuple[int, int] | None:
        """(rows, columns) of the patches that the keys are, row by row; None if they are not."""
        return self._picture_of("keys")[1]

    @property
    def has_places(self) -> bool:
        """Whether it is known where on the picture the keys lie, see `places`."""
        return self._places("keys") is not None

    def places(self, of: str = "keys") -> Places:
        """Return where on the feature map the tokens lie: windows put back, shift included.

        Args:
            of: "keys" or "queries".

        Raises:
            AttentionUnavailable: the tokens are no picture, or the way from the picture to the
                windows could not be followed.
            ValueError: `of` is neither.
        """
        found = self._places(of)
        if found is None:
            raise AttentionUnavailable(
                f"site {self.name!r} ({self.kind}, {getattr(self, of)} {of}): it is not known "
                "where its tokens lie on the picture; say it with grid=(rows, columns), or use "
                "its weights without a picture"
            )
        return found

    def places_along(
        self, note: Rearranged, shape: Sequence[int]
    ) -> tuple[Tensor, tuple[int, int]] | None:
        """Return the position of each element of a tensor that was made of these tokens.

        Args:
            note: where its tokens are, as the tap followed them.
            shape: of the tensor, images first.

        Returns:
            Positions of that shape, -1 for none, and the grid; None if they are not known.
        """
        return positions_of(note, shape, self._line, self.picture)

    def _picture_of(self, of: str) -> tuple[int, tuple[int, int] | None]:
        """Return (prefix, grid) if the tokens are the patches of a picture in order."""
        found = None if self.windows > 1 else self._places(of)
        if found is None:
            return 0, None
        patches = math.prod(found.grid)
        prefix = getattr(self, of) - patches
        if prefix < 0 or not torch.equal(found.position[:1, prefix:], torch.arange(patches)[None]):
            return 0, None
        return prefix, found.grid

    def _places(self, of: str) -> Places | None:
        if of not in ("keys", "queries"):
            raise ValueError(f"of={of!r}: expected 'keys' or 'queries'")
        tokens = getattr(self, of)
        if self.stated is not None and (of == "keys" or self.queries == self.keys):
            return self._in_line(tokens, self.stated, tokens - math.prod(self.stated))
        layout = self._layout
        if layout is None or self.picture is None or self.kind == "channel":
            return None
        moved = layout.moved[0 if of == "queries" else 1]
        if self.queries == self.keys and (moved is None or self.kind != "cross"):
            moved = layout.moved[1] or layout.moved[0]  # queries are the keys
        known = (None if moved is None else history(moved), layout.fold, tokens, self.picture)
        if known not in layout.memo:
            found = None
            if moved is not None and moved.origin != "pairs":
                found = places_of(moved, layout.fold, tokens, self._line, self.picture)
                found = None if found is None else self._of_images(found)
            elif self.windows == 1 and of == "keys":
                line = self._line(tokens)
                found = None if line is None else self._in_line(tokens, line[1], line[0])
            layout.memo[known] = found
        return layout.memo[known]

    def _of_images(self, found: Places) -> Places | None:
        """Return places whose first dimension counts images; it may count their heads too."""
        if found.images == self.images:
            return found
        heads, rest = divmod(found.images, self.images)
        if self.windows > 1 or rest or heads != self.heads or bool((found.image % heads).any()):
            return None
        return replace(found, image=found.image // heads, images=self.images)

    def _in_line(self, tokens: int, grid: tuple[int, int], prefix: int) -> Places:
        """Return the places of tokens that are `prefix` others and then the patches, in order."""
        position = torch.arange(tokens) - prefix
        position = position.masked_fill(position >= math.prod(grid), -1).clamp(min=-1)
        image = torch.arange(self.batch)[:, None].expand(-1, tokens)
        return Places(image, position.expand(self.batch, -1), grid, self.batch)

    def _line(self, tokens: int) -> tuple[int, tuple[int, int]] | None:
        if self._layout is None or self.kind == "cross":
            return None
        return stated_line(tokens, self._layout.modules, self.picture)

    def _kept(self) -> str:
        names = [
            n for n in ("q", "k", "v", "output", "probabilities") if getattr(self, n) is not None
        ]
        return ", ".join(names) or "nothing"

    def _check(self, *used: str) -> None:
        for which, tensor, version in self._versions:
            if which in used and tensor._version != version:
                raise AttentionUnavailable(
                    f"{which} of site {self.name!r} was overwritten after the tap saw it (an "
                    "in-place operation or a static key-value cache); use "
                    "attnviz.attention.tap(model, copy=True)"
                )


def same_block(first: str, second: str) -> bool:
    """Say whether two modules are parts of one numbered block, at most three levels down."""
    a, b = first.split("."), second.split(".")
    shared = 0
    while shared < min(len(a), len(b)) and a[shared] == b[shared]:
        shared += 1
    block = shared > 0 and any(p.isdigit() for p in a[:shared])
    return block and max(len(a), len(b)) - shared <= 3
