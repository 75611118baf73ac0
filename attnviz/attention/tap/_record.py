"""Turns what the mode intercepted into sites and gates."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ._joining import Made, merged, parts_of
from ._layout import (
    Fold,
    fold_of,
    has_state,
    heads_stated,
    images_of,
    kind_of,
    packed_groups,
    picture_of,
)
from ._modules import Running, running
from .functions import in_backward
from .gate import Gate, Missed, axes_of
from .site import Site, SiteLayout, same_block
from .tags import Keys, Rearranged, Stream


def _guarded(method: Callable[..., None]) -> Callable[..., None]:
    """Let no failure of the reading reach the model that is read; it is told in `missed`."""

    @functools.wraps(method)
    def call(self: Recorder, *args: Any, **kwargs: Any) -> None:
        modules = self.own_stack()
        if modules is None:
            return
        try:
            method(self, modules, *args, **kwargs)
        except Exception as error:
            reason = f"found but not understood ({type(error).__name__}: {error})"
            self.miss(modules[0].name, reason)

    return call


class Recorder:
    """Keeps what a tap found, in order.

    Args:
        names: id(module) -> name of the tapped model's modules, or None for any module.
        keep: which tensors are kept, a subset of "q", "k", "v" and "output".
        graph: keep the tensors with their autograd graph.
        copy: keep copies, so that later in-place operations do not reach them.
        restart: begin the autograd graph at the first attention's output, see `begin`.
        twice: compute fused attention so that it can be differentiated twice.
        reduce: what to keep of each attention as soon as it ran, in its place.
    """

    def __init__(
        self,
        names: dict[int, str] | None,
        keep: frozenset[str],
        graph: bool,
        copy: bool,
        restart: bool = False,
        twice: bool = False,
        reduce: Callable[[Site], Site] | None = None,
    ) -> None:
        self.names = names
        self.keep = keep
        self.graph = graph
        self.copy = copy
        self.restart = restart
        self.twice = twice
        self.reduce = reduce
        self.sites: list[Site | Gate] = []
        self.missed: dict[tuple[str, str], Missed] = {}
        self.used: set[int] = set()  # ids of parameters that took part
        self.ran = False
        self._root: Any = None  # frame of the outermost module call
        self._step = -1
        self._calls: dict[str, int] = {}
        self.keys = Keys()
        self._places: dict[Any, Any] = {}  # histories that were replayed already
        self._made: dict[int, Made] = {}  # what attentions of this step put out
        self.mha: tuple[int, int] | None = None  # (batch, heads) inside nn.MultiheadAttention
        self.tick = -1  # number of the call of the model that is being handled
        self.stream: Stream | None = None  # the last tensor of the last attention's tokens
        self._followed: tuple[Any, int, set[int]] | None = None  # their root, images, tokens

    def release(self) -> None:
        """Let go of what is only needed while the model runs."""
        self._root = None

    def miss(self, name: str, reason: str) -> None:
        """Note something that could not be read; said once per name and reason."""
        self.missed.setdefault((name, reason), Missed(name, reason))

    def own_stack(self) -> list[Running] | None:
        """Return the running modules of the model, innermost first; None if there are none.

        Nothing is recorded while autograd runs (gradient checkpointing computes layers again).
        """
        if in_backward():
            return None
        modules = running(self.names)
        if not modules:
            return None
        self.ran = True
        root = modules[-1].frame
        if root is not self._root:
            self._root, self._step, self._calls, self._made = root, self._step + 1, {}, {}
            self.keys.turn()
        return modules

    def begin(self, output: Tensor) -> Tensor:
        """Return what the model goes on with: once, a copy of the output that begins a graph.

        What ran before the first attention needs no graph, so it is run without one; gradients
        with respect to every attention's output need nothing else.
        """
        if not self.restart or in_backward():
            return output
        self.restart = False
        torch.set_grad_enabled(True)  # the caller's block sets it back
        return output.detach().requires_grad_().clone()

    def is_given(self, tensor: Tensor) -> bool:
        """Say whether a tensor is an argument that the outermost module was called with."""
        modules = self.own_stack()
        return bool(modules) and any(t is tensor for _, t in modules[-1].tensors)

    def token_tensor(self, tensor: Tensor, note: Rearranged) -> None:
        """Hear of a tensor (B, T, C) or of a picture; the last of the last attention is kept."""
        if self._followed is None or tensor.ndim not in (3, 4):
            return
        root, images, tokens = self._followed
        if tensor.shape[0] != images or note.root is not root:
            return
        sides = tensor.shape[1:]
        sizes = {sides[0]} if tensor.ndim == 3 else {sides[0] * sides[1], sides[1] * sides[2]}
        if sizes & tokens:
            self.stream = Stream(tensor, note, self.tick)

    def _count(self, name: str) -> int:
        self._calls[name] = self._calls.get(name, -1) + 1
        return self._calls[name]

    def hold(self, tensor: Tensor) -> Tensor:
        """Return what is kept of a tensor: itself, without its graph or as a copy as asked."""
        tensor = tensor if self.graph else tensor.detach()
        if not self.copy:
            crowded = (
                not self.graph
                and not self.keep & {"v", "output"}
                and tensor.numel()
                and tensor.untyped_storage().nbytes() > tensor.numel() * tensor.element_size()
            )
            # q and k are often views of one buffer with v; a copy lets that buffer go
            if not crowded:
                return tensor
        return tensor.clone()

    @_guarded
    def sdpa(
        self,
        modules: list[Running],
        q: Tensor,
        k: Tensor,
        v: Tensor,
        output: Tensor,
        *,
        mask: Tensor | None,
        dropout: float,
        causal: bool,
        scale: float | None,
        moved: Any,
        same: bool | None,
        made: Any,
    ) -> None:
        """Record a fused attention call."""
        if output.is_nested or q.is_nested:
            self.miss(modules[0].name, "attention over nested tensors; pad them instead")
            return
        images = images_of(modules, q.shape[-2], k.shape[-2], q.shape[:-2])
        fold = fold_of(q.shape[:-2], modules, images, q.shape[-2])
        groups = packed_groups(q.shape, modules)
        if groups > 1:  # the heads that share a key head lie among the queries
            fold = Fold(tuple(q.shape[:-2]), 1, packed=groups)
        dtype = _autocast_dtype(q)
        if dtype is not None:
            q, k, v = (t.to(dtype) if t.dtype == torch.float32 else t for t in (q, k, v))
        parts = {"q": q, "k": k, "v": v, "output": output}
        folded = {n: fold.apply(self.hold(t)) for n, t in parts.items() if n in self.keep}
        folded |= {n: fold.unpack(folded[n]) for n in ("q", "output") if n in folded}
        if mask is not None:
            whole: Any = getattr(mask, "_materialize", lambda: mask)()  # of torch's causal masks
            mask = fold.apply_mask(whole if self.graph else whole.detach())
        self._site(
            modules, images, fold, "sdpa", q.shape[-2] // groups, k.shape[-2], v.shape[-1], folded,
            moved, same, raw=output, mask=mask, causal=bool(causal), dropped=dropout > 0,
            scale=1 / math.sqrt(max(q.shape[-1], 1)) if scale is None else float(scale),
        )  # fmt: skip
        self._made[id(made)] = (made, len(self.sites) - 1, tuple(output.shape))

    @_guarded
    def product(
        self,
        modules: list[Running],
        weights: Tensor,
        values: Tensor,
        output: Tensor,
        *,
        clean: Tensor | None,
        source: str,
        mixed: bool,
        function: str,
        pooled: bool,
        moved: Any,
        same: bool | None,
        raw: Tensor,
        arrange: Callable[[Tensor], Tensor],
        rows: tuple[int, ...] = (),
        made: Any = None,
    ) -> None:
        """Record a written-out attention, A V = O, where A came from a softmax or sigmoid."""
        images = images_of(modules, weights.shape[-2], weights.shape[-1], weights.shape[:-2])
        if self.mha is not None and weights.ndim == 3 and weights.shape[0] == math.prod(self.mha):
            fold = Fold((weights.shape[0],), None, self.mha[1])
        else:
            fold = fold_of(weights.shape[:-2], modules, images, weights.shape[-2])
        if (
            len(rows) == 2
            and len(fold.lead) == 2
            and heads_stated(modules) == fold.lead[1] * rows[0]
        ):
            fold = Fold(fold.lead, 1, packed=rows[0])  # the members of a group, then the queries
        kept = clean if clean is not None else weights
        folded = {"probabilities": fold.unpack(fold.apply(self.hold(kept)))}
        if "v" in self.keep:
            folded["v"] = fold.apply(self.hold(values))
        if "output" in self.keep:
            folded["output"] = fold.unpack(fold.apply(self.hold(output)))
        queries = weights.shape[-2] // fold.packed
        self._site(
            modules, images, fold, source, queries, weights.shape[-1], values.shape[-1],
            folded, moved, same, dropped=clean is not None, mixed=mixed, pooled=pooled,
            function=function, raw=raw, arrange=arrange,
        )  # fmt: skip
        if arrange(raw).shape == raw.shape:
            self._made[id(made)] = (made, len(self.sites) - 1, tuple(raw.shape))

    @_guarded
    def gate(
        self,
        modules: list[Running],
        tensor: Tensor,
        shape: tuple[int, ...],
        *,
        function: str,
        origin: str,
        dim: int | None,
        notes: dict[str, Any],
    ) -> None:
        """Record a multiplication of a tensor of `shape` by weights that are broadcast to it."""
        name = modules[0].name
        if tensor.ndim > len(shape):
            raise ValueError(f"weights {tuple(tensor.shape)} for a tensor {shape}")
        padded = (1,) * (len(shape) - tensor.ndim) + tuple(tensor.shape)
        broadcast = tuple(
            i for i, (n, m) in enumerate(zip(padded, shape, strict=True)) if n == 1 and m > 1
        )
        self.sites.append(
            Gate(
                index=len(self.sites), name=name, step=self._step, call=self._count(name),
                function=function, origin=origin, tensor=self.hold(tensor), target_shape=shape,
                broadcast=broadcast, axes=axes_of(padded, shape, dim), softmax_dim=dim,
                module=modules[0].module, notes=notes,
            )
        )  # fmt: skip

    def withdraw(self, gate: Gate) -> None:
        """Take back a gate that turned out to be a step of the weights of an attention."""
        if self.sites and self.sites[-1] is gate:
            self.sites.pop()
            self._calls[gate.name] -= 1

    @_guarded
    def join(
        self, modules: list[Running], notes: list[Any], joined: Tensor, dim: int, stacked: bool
    ) -> None:
        """Make one site of attentions whose outputs, one after the other, were joined."""
        ways = parts_of(notes, self._made) if self._made and self.reduce is None else None
        if ways is None or len(ways) < 2:
            return
        numbers = [part[1] for part, _ in ways]
        first = numbers[0]
        if numbers != list(range(first, len(self.sites))):
            return
        sites = [s for s in self.sites[first:] if isinstance(s, Site)]
        whole = merged(sites, ways, joined, dim, stacked) if len(sites) == len(ways) else None
        if whole is not None:
            self.sites[first:] = [whole]
            self._calls[whole.name] = whole.call
            self._made = {}

    def _site(
        self, modules: list[Running], images: int | None, fold: Fold, source: str,
        queries: int, keys: int, width: int, folded: dict[str, Tensor], moved: Any,
        same: bool | None, *, raw: Tensor, arrange: Callable[[Tensor], Tensor] | None = None,
        mixed: bool = False, pooled: bool = False, **extra: Any,
    ) -> None:  # fmt: skip
        name = modules[0].name
        batch, heads = fold.shape
        images = batch if images is None else images
        windows = batch // images if images and batch > images and batch % images == 0 else 1
        kind = kind_of(
            modules, fold=fold, queries=queries, keys=keys, heads=heads, width=width,
            windows=windows, same=same,
        )  # fmt: skip
        # a decoder's additive score is projected from pairs of its state and the words: no pool
        pooled = pooled and not (queries == 1 and has_state(modules[0], keys))
        pooled = pooled and (kind in ("self", "cross") or (queries == 1 and kind == "window"))
        grouped = kind == "window"
        if pooled or self._pools(modules[0].name, kind, moved[0], queries, keys):
            kind = "pooling"
        if kind == "cross":
            self._not_a_picture(name, queries)
        layout = SiteLayout(
            fold, moved, tuple(m.module for m in modules), self._places,
            raw if self.graph and "output" in self.keep else None, arrange,
        )  # fmt: skip
        held = {**folded, "mask": extra.get("mask")}
        stream = moved[0] if moved[0] is not None or kind in ("cross", "pooling") else moved[1]
        if kind != "channel" and stream is not None:
            images = batch // windows
            counts = {queries * windows, keys * windows if kind == "self" else queries * windows}
            self.stream, self._followed = None, (stream.root, images, counts)
        self.sites.append(
            (self.reduce or _itself)(Site(
                index=len(self.sites), name=name, kind=kind, source=source, step=self._step,
                call=self._count(name), batch=batch, heads=heads, queries=queries, keys=keys,
                windows=windows if grouped else 1, images=batch // windows, pooled=pooled,
                picture=picture_of(modules, kind, (queries, keys)), mixed=mixed,
                _versions=tuple((n, t, t._version) for n, t in held.items() if _is_counted(t)),
                _layout=layout, **folded, **extra,
            ))
        )  # fmt: skip

    def _pools(self, name: str, kind: str, asks: Any, queries: int, keys: int) -> bool:
        """Say whether queries that are parameters, and attend to nothing else, gather tokens."""
        if kind != "cross" or asks is None or asks.origin != "fixed" or queries >= keys:
            return False
        return not any(
            isinstance(s, Site) and s.step == self._step and s.kind == "self"
            and s.queries == queries and same_block(s.name, name)
            for s in self.sites
        )  # fmt: skip

    def _not_a_picture(self, name: str, queries: int) -> None:
        """Take the picture from self-attention among the queries of a cross-attention.

        A decoder's object queries or words may be as many as a grid has patches.
        """
        for i, site in enumerate(self.sites):
            if (
                isinstance(site, Site)
                and site.kind == "self"
                and site.step == self._step
                and site.keys == queries
                and same_block(site.name, name)
            ):
                self.sites[i] = replace(site, picture=None)


def _itself(site: Site) -> Site:
    return site


def _autocast_dtype(q: Tensor) -> torch.dtype | None:
    kind = q.device.type
    with contextlib.suppress(RuntimeError):
        if torch.is_autocast_enabled(kind):
            return torch.get_autocast_dtype(kind)
    return None


def _is_counted(tensor: Tensor | None) -> bool:
    """Say whether writes into a tensor are counted; they are not in inference mode."""
    return tensor is not None and not tensor.is_inference()
