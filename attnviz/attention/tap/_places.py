"""Where on the picture the tokens of an attention lie: windows put back, shift included.

The tap notes by which views, shifts, paddings and projections a tensor was made from another. The
same steps on a tensor of running numbers tell, for each token of each window, which position it
came from, for any way of cutting windows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ._layout import Fold
from .tags import Rearranged


@dataclass(frozen=True, eq=False, repr=False)
class Places:
    """Positions of tokens.

    Attributes:
        image: (B, T) long, the image that each token of each window belongs to.
        position: (B, T) long, row * columns + column; -1 for padding and prefix tokens.
        grid: (rows, columns) of the feature map; (1, T) where the tokens are in a line.
        images: number of images.
    """

    image: Tensor
    position: Tensor
    grid: tuple[int, int]
    images: int

    def __repr__(self) -> str:
        return f"Places({self.images} images, {self.grid[0]} x {self.grid[1]})"

    def scatter(self, values: Tensor, *, reduce: str = "sum") -> Tensor:
        """Put values of tokens on the picture: (B, ..., T) -> (images, ..., rows, columns).

        Args:
            values: (B, ..., T) with B windows and T tokens as in `position`.
            reduce: "sum" or "mean" of what falls on one position; positions without any are 0.
        """
        rows, columns = self.grid
        cells = rows * columns
        middle = values.shape[1:-1]
        flat = values.reshape(values.shape[0], -1, values.shape[-1])
        inside = self.position >= 0
        # one spare cell takes what falls on padding
        cell = torch.where(inside, self.position, cells) + self.image * (cells + 1)
        out = values.new_zeros(flat.shape[1], self.images * (cells + 1))
        cell = cell.reshape(-1).to(values.device)
        out = out.index_add(1, cell, flat.transpose(0, 1).reshape(flat.shape[1], -1))
        if reduce == "mean":
            count = torch.zeros(out.shape[1], dtype=values.dtype, device=values.device)
            count = count.index_add(0, cell, torch.ones_like(cell, dtype=values.dtype))
            out = out / count.clamp(min=1)
        elif reduce != "sum":
            raise ValueError(f"reduce={reduce!r}: expected 'sum' or 'mean'")
        out = out.reshape(-1, self.images, cells + 1)[..., :cells].transpose(0, 1)
        return out.reshape(self.images, *middle, rows, columns)


def places_of(
    moved: Rearranged,
    fold: Fold,
    tokens: int,
    line: Callable[[int], tuple[int, tuple[int, int]] | None],
    picture: tuple[int, int] | None,
) -> Places | None:
    """Return the places of the tokens of a raw tensor (*lead, tokens, channels).

    Args:
        moved: its history.
        fold: how its leading dimensions become batch and heads.
        tokens: T.
        line: function from a number of tokens to (prefix, (rows, columns)) or None, for histories
            that begin with a list of tokens: what the model states of them.
        picture: (height, width) of the model's input, against which a source of four dimensions
            that is no convolution's is checked.

    Returns:
        None if the history does not lead to one position on a picture for each token.
    """
    for source in _sources(moved.root, line, picture):
        try:
            index, grid = _replay_all(moved, *source)
            index = fold.apply(index)
        except (RuntimeError, IndexError, TypeError, ValueError):
            continue
        if index.shape[0] != fold.shape[0] or index.shape[2] != tokens or index.shape[3] == 0:
            continue
        cell = index.amax((1, 3)).long()  # heads and channels of one token lie on one position
        if bool(((index != cell[:, None, :, None]) & (index >= 0)).any()):
            continue
        inside = cell >= 0
        count = math.prod(grid)
        image = cell.clamp(min=0) // count
        # a token of padding belongs to the image of the window that it is in
        image = torch.where(inside, image, image.masked_fill(~inside, 0).amax(1, keepdim=True))
        position = torch.where(inside, cell % count, -1)
        return Places(image, position, grid, moved.root.shape[0])
    return None


def positions_of(
    moved: Rearranged,
    shape: Sequence[int],
    line: Callable[[int], tuple[int, tuple[int, int]] | None],
    picture: tuple[int, int] | None,
) -> tuple[Tensor, tuple[int, int]] | None:
    """Return the position of each element of a tensor of this shape, and the grid, if known."""
    for source in _sources(moved.root, line, picture):
        try:
            index, grid = _replay_all(moved, *source)
        except (RuntimeError, IndexError, TypeError, ValueError):
            continue
        if tuple(index.shape) == tuple(shape):
            return torch.where(index >= 0, index % math.prod(grid), -1).long(), grid
    return None


def _sources(
    root: Rearranged,
    line: Callable[[int], tuple[int, tuple[int, int]] | None],
    picture: tuple[int, int] | None,
) -> Iterator[tuple[Tensor, tuple[int, int]]]:
    """Yield the cell of the grid that each element of a source lies on, and the grid."""
    shape = root.shape
    if math.prod(shape) == 0 or root.origin in ("fixed", "words", "pairs"):
        return
    kind = torch.int32 if math.prod(shape) < 2**31 else torch.int64
    if len(shape) == 3:
        stated = line(shape[1])
        if stated is None:
            return
        prefix, grid = stated
        count = math.prod(grid)
        at = torch.arange(shape[1], dtype=kind) - prefix
        cell = at + count * torch.arange(shape[0], dtype=kind)[:, None]
        cell = torch.where((at >= 0) & (at < count), cell, -1)
        yield cell[:, :, None].expand(shape), grid
    if len(shape) != 4:
        return
    for rows, columns in ((2, 3),) if root.origin == "picture" else ((2, 3), (1, 2)):
        grid = (shape[rows], shape[columns])
        if root.origin != "picture" and not _covers(grid, picture):
            continue
        cell = torch.arange(shape[0] * math.prod(grid), dtype=kind).view(shape[0], *grid)
        yield cell.unsqueeze(1 if rows == 2 else 3).expand(shape), grid


def _covers(grid: tuple[int, int], picture: tuple[int, int] | None) -> bool:
    """Say whether a grid is the picture at one stride, up to padding of the last window."""
    if picture is None:
        return False
    steps = picture[0] / grid[0], picture[1] / grid[1]
    return min(steps) >= 0.99 and max(steps) / min(steps) < 1.35


def history(moved: Rearranged) -> tuple[Any, ...]:
    """Return a key that is equal for histories that put tokens in the same places."""
    key: list[Any] = []
    step: Rearranged | None = moved
    while step is not None:
        if step.op != "same" or step.parent is None:
            # tensors among the arguments live as long as the history, so their ids stay theirs
            args = tuple(id(a) if isinstance(a, Tensor) else repr(a) for a in step.args)
            named = tuple((k, id(a) if isinstance(a, Tensor) else repr(a)) for k, a in step.kwargs)
            key.append((step.op, id(step.fn), args, named, step.pick, step.width, step.shape))
        step = step.parent
    key.append(moved.origin)
    return tuple(key)


def _replay_all(
    moved: Rearranged, index: Tensor, grid: tuple[int, int]
) -> tuple[Tensor, tuple[int, int]]:
    """Return the cell of each element after all steps, -1 for none, and the grid.

    Where patches merge, the grid is that of the merged ones.
    """
    steps: list[Rearranged] = []
    step: Rearranged | None = moved
    while step is not None and step.parent is not None:
        steps.append(step)
        step = step.parent
    for step in reversed(steps):
        if step.op == "move":
            index = replay(step, index)
        elif step.op == "cat":
            dim, offset, total = step.args
            size = list(index.shape)
            size[dim] = total
            larger = index.new_full(size, -1)
            larger.narrow(dim, offset, index.shape[dim]).copy_(index)
            index = larger
        elif step.op == "stack":
            dim, number = step.args
            larger = index.new_full((*index.shape[:dim], number, *index.shape[dim:]), -1)
            larger.select(dim, 0).copy_(index)
            index = larger
        elif step.op == "reduce":
            dims, kept = step.args
            whole = index.amax(dims, keepdim=True)
            if bool(((index != whole) & (index >= 0)).any()):
                raise ValueError("several places become one")
            index = whole if kept else whole.squeeze(dims)
        elif step.op in ("last", "second"):
            dim = index.ndim - 1 if step.op == "last" else 1
            size = list(index.shape)
            size[dim] = step.width
            whole = index.amax(dim, keepdim=True)
            if bool(((index != whole) & (index >= 0)).any()):
                whole, grid = _merged(index, dim, grid)
            index = whole.expand(size)
    return index, grid


def _merged(index: Tensor, dim: int, grid: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
    """Return the cells of tokens that were each made of several patches along `dim`, and the grid.

    Raises:
        ValueError: they are no grid of equal blocks.
    """
    count, columns = math.prod(grid), grid[1]
    inside = index >= 0
    place = index % count
    y = (place // columns).masked_fill(~inside, grid[0]).amin(dim, keepdim=True)
    x = (place % columns).masked_fill(~inside, columns).amin(dim, keepdim=True)
    image = (index.amax(dim, keepdim=True) // count).clamp(min=0)
    live = inside.any(dim, keepdim=True)
    tops, lefts = y[live].unique(), x[live].unique()
    cell = (image * len(tops) + torch.searchsorted(tops, y.contiguous())) * len(lefts)
    cell = cell + torch.searchsorted(lefts, x.contiguous())
    found = cell[live]
    if found.numel() != found.unique().numel() or found.numel() % (len(tops) * len(lefts)):
        raise ValueError("merged patches are no grid")
    return torch.where(live, cell, -1).to(index.dtype), (len(tops), len(lefts))


def replay(step: Rearranged, index: Tensor) -> Tensor:
    """Return running numbers after one view, shift, padding or slice; what is new has -1."""
    assert step.fn is not None
    kwargs = dict(step.kwargs)
    args = step.args
    if getattr(step.fn, "__name__", "") == "pad":
        widths = args[0] if args else kwargs["pad"]
        mode = args[1] if len(args) > 1 else kwargs.get("mode", "constant")
        if mode != "constant":
            return step.fn(index.double(), widths, mode=mode).round().to(index.dtype)
        return step.fn(index, widths, value=-1)
    args = tuple(a.cpu() if isinstance(a, Tensor) else a for a in args)
    if step.fn is F.unfold:
        return F.unfold(index.double() + 1, *step.args, **kwargs).round().to(index.dtype) - 1
    if getattr(step.fn, "__name__", "") == "view":  # the indices may lie otherwise in memory
        sizes: Any = args[0] if args and isinstance(args[0], (tuple, list)) else args
        return index.reshape(sizes or kwargs["size"])
    found = step.fn(index, *args, **kwargs)
    return found if step.pick is None else found[step.pick]
