"""What every map of attention starts from: one forward pass, read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...attention.tap import Site, Stream, Tap
from ...attention.tap.ordering import in_order
from ...errors import AttentionUnavailable, LayerNotFound, MethodError, did_you_mean
from ...hooks import own_thread
from ...targets import Column
from .. import Request
from ..forward import ForwardPass, forward_pass
from .steps import Tokens, adapt, attend, in_places, tokens_of
from .tail import row_of_head

#: class, distillation and register tokens that may stand before a grid that the user states
MOST_PREFIX = 16

#: why a map weighted by gradients can't be made
NO_GRAPH = (
    "no attention that was read has a graph, so a map weighted by gradients can't be made: it ran "
    "under torch.no_grad or in re-entrant gradient checkpointing; switch that off, or use "
    "torch.utils.checkpoint with use_reentrant=False"
)

Row = int | str | tuple[int, int] | Tensor | None


@dataclass(eq=False)
class Reading:
    """One forward pass of a model and the attention in it.

    Attributes:
        done: the forward pass: request, output, targets and scores.
        sites: attention among the patches of the picture, in order, only of the layers asked for.
        every: every attention found.
        tokens: output of each block of the model, in order, where a method asked for it.
        stream: the last tensor of the last attention's tokens, which the head reads.
    """

    done: ForwardPass
    sites: tuple[Site, ...]
    every: tuple[Site, ...]
    tokens: Mapping[str, Tensor] = field(default_factory=dict)
    stream: Stream | None = None
    _read: dict[int, Tensor] = field(default_factory=dict)
    _gradients: dict[int, dict[int, Tensor]] = field(default_factory=dict)

    @property
    def model(self) -> nn.Module:
        """The model."""
        return self.done.request.model

    @property
    def batch(self) -> int:
        """Number of images."""
        return self.done.request.batch

    @property
    def columns(self) -> tuple[Column, ...]:
        """What is explained, one for each class asked for."""
        return self.done.columns

    @property
    def scores(self) -> tuple[Tensor, ...]:
        """(B,) for each column."""
        return self.done.scores

    @property
    def output(self) -> Any:
        """What the model returned."""
        return self.done.output

    @property
    def create_graph(self) -> bool:
        """Whether maps keep their graph."""
        return self.done.request.create_graph

    def forward(self) -> Any:
        """Run the model on the same inputs again."""
        return self.done.request.forward()

    @property
    def left_out(self) -> tuple[Site, ...]:
        """Attention of the picture that a map of all layers cannot use."""
        used = {s.index for s in self.sites}
        return tuple(
            s for s in self.every
            if s.picture is not None and s.index not in used and s.images == self.batch
            and s.kind != "cross"
        )  # fmt: skip

    @property
    def last(self) -> Site:
        """The last attention among the patches."""
        return self.sites[-1]

    def gradients(self, column: int) -> dict[int, Tensor]:
        """Return d score / d O of every site, {index of the site: (B, H, Q, Ev)}.

        Raises:
            MethodError: the score does not depend on any attention.
        """
        if column not in self._gradients:
            sites = [s for s in self.every if s.raw_output.requires_grad]
            outputs = [s.raw_output for s in sites]
            found: Sequence[Tensor | None] = ()
            if outputs and self.scores[column].requires_grad:
                found = torch.autograd.grad(
                    self.scores[column], outputs, torch.ones_like(self.scores[column]),
                    allow_unused=True,
                    retain_graph=True,  # the row that the head reads goes back once more
                    create_graph=self.create_graph,
                )  # fmt: skip
            named = {
                s.index: s.fold_output(g)
                for s, g in zip(sites, found, strict=False)
                if g is not None
            }
            if not named and len(sites) < len(self.every):
                raise MethodError(NO_GRAPH)
            if not named:
                raise MethodError(
                    "the score does not depend on any attention that was read, so a map weighted "
                    "by gradients is empty; use a map of the attention itself, e.g. 'rollout'"
                )
            self._gradients[column] = named
        return self._gradients[column]

    def gradient(self, site: Site, column: int) -> Tensor:
        """Return d score / d O of one site, zero where the score does not depend on it."""
        found = self.gradients(column).get(site.index)
        if found is not None:
            return found
        assert site.output is not None  # what its gradient was asked of
        return torch.zeros_like(site.output)

    def start(self, row: Row = None, column: int = 0) -> tuple[Tensor, Tokens]:
        """Return the row vector that a map begins with, (B, T), and its tokens.

        Args:
            row: None for what the model's head reads, by the gradient of the score with respect
                to the last tokens; "cls", "mean", a patch (row, column), a token's number, or
                weights (T,) or (B, T).
            column: which score, for None.

        Raises:
            MethodError: no such row, or what the head reads could not be told.
        """
        site = self.last
        tokens = tokens_of(site)
        if site.kind == "pooling":
            tokens = Tokens(site.queries, 0, None)
        start = torch.zeros(self.batch, tokens.count, dtype=_dtype(site), device=_device(site))
        if row is None:
            return self._of_head(column).to(start), tokens
        if isinstance(row, Tensor):
            if row.shape not in ((tokens.count,), (self.batch, tokens.count)):
                raise MethodError(
                    f"row has shape {tuple(row.shape)}; expected ({tokens.count},) or "
                    f"({self.batch}, {tokens.count}), a weight for each token"
                )
            return start + row.to(start), tokens
        if row == "mean":
            start[:, tokens.prefix :] = 1 / max(tokens.count - tokens.prefix, 1)
        elif row == "cls":
            if not tokens.prefix:
                raise MethodError(
                    f"{type(self.model).__name__} has no class token; use row='mean', or a patch "
                    "row=(row, column)"
                )
            start[:, 0] = 1
        else:
            start[:, token_number(row, tokens)] = 1
        return start, tokens

    def _of_head(self, column: int) -> Tensor:
        """Return what the head reads of the tokens of the last layer shown, (B, T)."""
        final = [s for s in self.every if on_picture(s, self.batch)][-1]
        if column not in self._read:
            row = row_of_head(self, final, column)
            if final.kind != "pooling" and not in_places(final):  # class attention: the first ask
                row = F.pad(row, (0, tokens_of(final).count - row.shape[1]))
            self._read[column] = row
        row, site = self._read[column], self.last
        if final.index == site.index:
            return row
        if final.kind == "pooling":  # what the pooling gathers is read of every layer's tokens
            row = attend(final, row.to(_dtype(final)), None)
        have, want = tokens_of(final), tokens_of(site)
        return adapt(row, have, want, site) if have.count != want.count else row

    def picture(self, values: Tensor, tokens: Tokens) -> Tensor:
        """Return values of tokens on the picture: (B, T) -> (B, h, w), prefix tokens left out."""
        if tokens.grid is None:
            raise AttentionUnavailable(
                f"{tokens.count} tokens are no picture; read the values with the functions of "
                "attnviz.attention and draw them beside their tokens"
            )
        return values[:, tokens.prefix :].unflatten(1, tokens.grid)


def token_number(row: Any, tokens: Tokens) -> int:
    """Return the number of a token given by number or by patch (row, column), checked."""
    if isinstance(row, (tuple, list)) and len(row) == 2 and tokens.grid is not None:
        height, width = tokens.grid
        y, x = row
        if not (0 <= y < height and 0 <= x < width):
            raise MethodError(f"patch {tuple(row)} is outside the grid of {height} x {width}")
        return tokens.prefix + int(y) * width + int(x)
    if isinstance(row, int) and not isinstance(row, bool) and 0 <= row < tokens.count:
        return row
    raise MethodError(
        f"row={row!r}: expected None, 'cls', 'mean', a patch (row, column) within {tokens.grid}, "
        f"or a token's number below {tokens.count}"
    )


def _held(site: Site) -> Tensor:
    held = site.q if site.q is not None else site.probabilities
    assert held is not None
    return held


def _dtype(site: Site) -> torch.dtype:
    return torch.float64 if _held(site).dtype == torch.float64 else torch.float32


def _device(site: Site) -> torch.device:
    return _held(site).device


def read(request: Request, *, gradients: bool, keep: str = "qk", tokens: bool = False) -> Reading:
    """Run the model once and return its attention.

    Args:
        request: what to explain.
        gradients: keep a graph from the first attention on.
        keep: what is kept of each attention: "qk", "qkv" or "all" (the output too, which
            gradients need).
        tokens: keep the output of each block.

    Raises:
        AttentionUnavailable: no attention among patches was found.
        LayerNotFound: a layer asked for has no attention.
    """
    graph = gradients or request.create_graph
    restart = gradients and not request.create_graph
    taken = Tap(
        request.model, keep="all" if gradients else keep, graph=graph, copy=False,
        required=True, restart=restart, twice=gradients and request.create_graph,
    )  # fmt: skip
    blocks: dict[str, Tensor] = {}
    with torch.set_grad_enabled(request.create_graph):
        done = forward_pass(
            request, gradients=gradients, reading=(_blocks(request.model, blocks, tokens), taken)
        )
    every = with_grid(taken.attention, request.options.get("grid"))
    every = tuple(in_order(s) if s.picture is not None else s for s in every)
    sites = [s for s in every if on_picture(s, request.batch)]
    if not sites:
        found = ", ".join(f"{s.name} ({s.kind})" for s in taken.attention[:4]) or "none"
        raise AttentionUnavailable(
            f"no attention among the patches of an image was found in "
            f"{type(request.model).__name__}; attention found: {found}"
            + "".join(f"; not readable: {m}" for m in taken.missed[:3])
            + ". Where its patches lie could not be followed from the picture: say it with "
            "grid=(rows, columns)" * any(s.picture is not None for s in every)
        )
    _refuse_parts(sites)
    chosen = tuple(sites)
    if request.layers:
        chosen = tuple(of_layers(sites, request.layers))
    return Reading(done, chosen, every, blocks, taken.stream)


def _refuse_parts(sites: Sequence[Site]) -> None:
    """Refuse layers that ask for some tokens after the others and could not be put together."""
    asked: dict[tuple[str, int, int], int] = {}
    for site in sites:
        if site.queries < site.keys and site.kind == "self":
            key = (site.name, site.step, site.keys)
            asked[key] = asked.get(key, 0) + site.queries
            if asked[key] == site.keys:
                raise MethodError(
                    f"the attention of layer {site.name!r} runs in chunks of its {site.keys} "
                    "queries, and how they are put together could not be followed; read each with "
                    "attnviz.attention.tap(model), or join the chunks with torch.cat"
                )


def with_grid(sites: Sequence[Site], grid: Any) -> tuple[Site, ...]:
    """Return the sites with the grid that the user states, where there are patches enough."""
    if grid is None:
        return tuple(sites)
    if not isinstance(grid, (tuple, list)) or len(grid) != 2:
        raise MethodError(f"grid={grid!r}: expected (rows, columns) of the patches")
    rows, columns = int(grid[0]), int(grid[1])
    count = rows * columns
    fits = [s for s in sites if 0 <= s.keys - count <= MOST_PREFIX and s.windows == 1]
    if not fits:
        sizes = sorted({s.keys for s in sites})
        raise MethodError(f"grid={tuple(grid)} is {count} patches; layers have {sizes} tokens")
    chosen = {s.index for s in fits}
    return tuple(s.with_grid((rows, columns)) if s.index in chosen else s for s in sites)


@contextmanager
def _blocks(model: nn.Module, found: dict[str, Tensor], wanted: bool) -> Iterator[None]:
    """Keep what each block of the model gives, a block being a member of a list of modules."""
    handles = []
    if wanted:
        for name, module in model.named_modules():
            parent = model.get_submodule(name.rpartition(".")[0]) if name else None
            if isinstance(parent, (nn.ModuleList, nn.Sequential)):
                handles.append(module.register_forward_hook(_keeper(name, found)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _keeper(name: str, found: dict[str, Tensor]) -> Callable[..., None]:
    @own_thread
    def keep(module: nn.Module, args: Any, output: Any) -> None:
        first = output[0] if isinstance(output, tuple) and output else output
        if isinstance(first, Tensor) and first.ndim == 3 and module_holds_attention(module):
            found[name] = first

    return keep


def module_holds_attention(module: nn.Module) -> bool:
    """Say whether a module has parts of its own (a block), and is no single layer."""
    return any(True for _ in module.children())


def on_picture(site: Site, batch: int) -> bool:
    """Say whether a site is attention among the patches of the images of the batch."""
    return (
        site.kind in ("self", "window", "pooling")
        and site.images == batch
        and site.picture is not None
        and (site.grid is not None or in_places(site))
    )


def of_layers(sites: Sequence[Site], layers: Sequence[str]) -> list[Site]:
    """Return the sites in the layers named: attention modules, or blocks that hold one."""
    kept = []
    for layer in layers:
        inside = [s for s in sites if s.name == layer or s.name.startswith(f"{layer}.")]
        # a part of the attention module (its dropout, its projection) means the module
        inside = inside or [s for s in sites if layer.startswith(f"{s.name}.")]
        if not inside:
            raise LayerNotFound(
                f"layer {layer!r} holds no attention among patches"
                f"{did_you_mean(layer, [s.name for s in sites]) or '.'} With attention: "
                f"{', '.join(s.name for s in sites)}"
            )
        kept += inside
    chosen = {s.index for s in kept}
    return [s for s in sites if s.index in chosen]
