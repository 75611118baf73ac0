"""What a model does behind a point: run again from there, without what lies before it.

So the row that the head reads is known: the gradient of the score with respect to the tensor that
held the tokens last. A class token alone, the mean of the patches, both, or two class tokens are
told apart by it, whatever they are called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ...attention.tap import Site, Stream
from ...attention.tap.fold import wide
from ...attention.tap.functions import unguarded_mha
from ...errors import MethodError
from .steps import in_places

if TYPE_CHECKING:
    from .reading import Reading


class Skipping(TorchFunctionMode):
    """Gives zeros of the right shape for large products until `stop` is called.

    For a second pass whose first part is thrown away: the values that count are put in at the
    point where `stop` is called.

    Args:
        leap: False computes the first part, too, and puts in what it gives: for models in which
            another path comes from it, or which changed the values in place since.
    """

    def __init__(self, *, leap: bool = True) -> None:
        super().__init__()
        self.active = True
        self._leap = leap
        self.replace: tuple[int, Tensor] | None = None  # number of a call, what it shall return
        self.replaced = False
        self._tick = -1

    def stop(self) -> None:
        """Compute everything from here on."""
        self.active = False

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run the function, or make room for its result."""
        kwargs = kwargs or {}
        if not self.active:
            return func(*args, **kwargs)
        self._tick += 1
        if self.replace is not None and self._tick == self.replace[0]:
            self.stop()
            self.replaced = True
            if not self._leap:
                with torch.no_grad():
                    self.replace[1].copy_(func(*args, **kwargs))
            torch.set_grad_enabled(True)  # the block below sets it back
            return self.replace[1].clone()  # what follows may change it in place
        if self._leap and func is F.linear and len(args) > 1:
            return args[0].new_zeros((*args[0].shape[:-1], *args[1].shape[:-1]))
        if self._leap and func is F.scaled_dot_product_attention and len(args) > 2:
            q, v = args[0], args[2]
            return q.new_zeros((*q.shape[:-1], v.shape[-1]))
        if func is F.multi_head_attention_forward:
            with self:
                return unguarded_mha()(*args, **kwargs)
        return func(*args, **kwargs)


@contextmanager
def skipping() -> Iterator[Callable[[], None]]:
    """Skip large products inside the block, without a graph, until what is given is called.

    From the call on everything is computed, with a graph.
    """
    mode = Skipping()

    def stop() -> None:
        mode.stop()
        torch.set_grad_enabled(True)  # the block sets it back

    with torch.set_grad_enabled(False), mode:
        yield stop


def row_of_head(reading: Reading, site: Site, column: int) -> Tensor:
    """Return the share of each of the last attention's queries in what the head reads, (B, Q).

    The norm of the score's gradient with respect to each token of the last tensor that holds
    them, divided by the sum: 1 at the class token where it alone is read, 1 / patches at each
    patch where a mean of them is read.

    Raises:
        MethodError: the tensor could not be followed, or the score does not depend on it.
    """
    if site.kind == "pooling" and site.queries == 1:
        return torch.ones(reading.batch, 1)
    stream = reading.stream
    if stream is None:
        raise _unknown("the tokens could not be followed to the model's output")
    tensor, score = stream.tensor, reading.scores[column]
    if score.requires_grad and tensor.requires_grad:
        (gradient,) = torch.autograd.grad(
            score, tensor, torch.ones_like(score), retain_graph=True, allow_unused=True,
            create_graph=reading.create_graph,
        )  # fmt: skip
    else:
        gradient = _gradient_again(reading, column)
    if gradient is None or not bool(gradient.any()):
        raise _unknown(
            "the score does not depend on the last tokens; torch.no_grad in the model and "
            "re-entrant gradient checkpointing cut the way to them: take use_reentrant=False"
        )
    square = wide(gradient).square()
    if in_places(site) or gradient.ndim == 4:
        square = _of_cells(square, stream, site)
    elif gradient.shape[1] in (site.queries, site.keys):
        square = square.sum(2)
        if site.order is not None:
            square = square[:, site.order.to(square.device)]
    else:
        raise _not_followed(site, gradient.shape[1])
    # the root has no derivative at 0, where a token is not read
    norm = square.masked_fill(square == 0, 1.0).sqrt().masked_fill(square == 0, 0.0)
    return norm / norm.sum(1, keepdim=True)


def _gradient_again(reading: Reading, column: int) -> Tensor | None:
    """Return d score / d tokens from a second pass that computes what lies behind them alone."""
    stream = reading.stream
    assert stream is not None
    leaf = stream.tensor.detach().clone().requires_grad_()
    known = reading.scores[column].detach()
    with torch.inference_mode(False):
        for leap in (True, False):  # a path beside the tokens has to be computed as well
            mode = Skipping(leap=leap)
            mode.replace = (stream.tick, leaf)
            with torch.set_grad_enabled(False), mode:
                output = reading.forward()
                score = reading.columns[column].score(output)
            if not mode.replaced or not score.requires_grad:
                return None
            if torch.allclose(score.detach(), known, rtol=1e-2, atol=1e-3 * _size(known)):
                return torch.autograd.grad(score.sum(), leaf, allow_unused=True)[0]
    raise _unknown("the model does not compute the same twice")


def _size(values: Tensor) -> float:
    return float(values.abs().max())


def _of_cells(square: Tensor, stream: Stream, site: Site) -> Tensor:
    """Return sums over the channels of each position of the picture, (B, h w)."""
    found = site.places_along(stream.note, square.shape)
    if found is None:
        raise _unknown("the last tokens' places on the picture are not known")
    places, grid = found
    count = grid[0] * grid[1]
    cell = torch.where(places < 0, count, places).to(square.device).flatten(1)
    out = square.new_zeros(len(square), count + 1)
    return out.scatter_add(1, cell, square.flatten(1))[:, :count]


def _not_followed(site: Site, tokens: int) -> MethodError:
    return MethodError(
        f"behind {site.name!r}, whose {site.queries} queries are the last tokens that could be "
        f"followed on the picture, this network goes on with {tokens}: they are pooled inside an "
        "attention (MViT), or stand in several branches (CrossViT), so a map of all layers is not "
        "known. Use a class activation map, such as gradcam, or one layer: layer=... with row=..."
    )


def _unknown(why: str) -> MethodError:
    return MethodError(
        f"it is not known which tokens the model's head reads ({why}); say it with row='cls', "
        "row='mean', a patch row=(row, column), or weights row=tensor of (tokens,)"
    )
