"""Where on the picture the tokens of an attention lie: windows put back, shift included.

The tap notes by which views, shifts, paddings and projections a tensor was made from another. The
same steps on a tensor of running numbers tell, for each token of each window, which position it
came from, for any way of cutting windows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ._layout import Fold
from .tags import Moved


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
    moved: Moved,
    fold: Fold,
    tokens: int,
    line: Callable[[int], tuple[int, tuple[int, int] | None]],
    picture: tuple[int, int] | None,
) -> Places | None:
    """Return the places of the tokens of a raw tensor (*lead, tokens, channels).

    Args:
        moved: its history.
        fold: how its leading dimensions become batch and heads.
        tokens: T.
        line: function from a number of tokens to (prefix, (rows, columns) or None), for histories
            that begin with a list of tokens.
        picture: (height, width) of the model's input, against which a grid is checked.

    Returns:
        None if the history does not lead to one position on a picture for each token.
    """
    try:
        index, shape, seen = _replay_all(moved)
        index = fold.apply(index)
    except (RuntimeError, IndexError, TypeError, ValueError):
        return None
    if index.shape[0] != fold.shape[0] or index.shape[2] != tokens or index.shape[3] == 0:
        return None
    where = index[:, 0, :, 0].long()  # heads and channels of one token lie on one position
    inside = where >= 0
    axes = _unravel(where.clamp(min=0), shape)
    prefix, grid = 0, None
    if len(shape) == 3:
        if seen is not None:
            grid, row = seen, axes[1]
            row = row if seen[0] * seen[1] == shape[1] else axes[2]
        else:
            prefix, grid = line(shape[1])
            row = axes[1]
        if grid is None:
            return None
        position = row - prefix
    else:
        found = _spatial(shape, axes, picture)
        if found is None:
            return None
        rows, columns = found
        grid = (shape[rows], shape[columns])
        position = axes[rows] * shape[columns] + axes[columns]
    position = torch.where(inside & (position >= 0), position, -1)
    # a token of padding belongs to the image of the window that it is in
    image = torch.where(inside, axes[0], axes[0].masked_fill(~inside, 0).amax(1, keepdim=True))
    return Places(image, position, grid, shape[0])


def history(moved: Moved) -> tuple[Any, ...]:
    """Return a key that is equal for histories that put tokens in the same places."""
    key: list[Any] = []
    step: Moved | None = moved
    while step is not None:
        if step.op != "same" or step.parent is None:
            # tensors among the arguments live as long as the history, so their ids stay theirs
            args = tuple(id(a) if isinstance(a, Tensor) else repr(a) for a in step.args)
            named = tuple((k, id(a) if isinstance(a, Tensor) else repr(a)) for k, a in step.kwargs)
            key.append((step.op, id(step.fn), args, named, step.pick, step.width, step.shape))
        step = step.parent
    return tuple(key)


def _replay_all(
    moved: Moved,
) -> tuple[Tensor, tuple[int, ...], tuple[int, int] | None]:
    """Return the running numbers after all steps, the shape they count, and a grid seen on the way.

    The grid is that of a list of tokens (B, T, C) that was reshaped to (B, rows, columns, C).
    """
    steps: list[Moved] = []
    step: Moved | None = moved
    while step is not None:
        steps.append(step)
        step = step.parent
    shape = steps[-1].shape
    index = _count(shape)
    seen: tuple[int, int] | None = None
    for step in reversed(steps[:-1]):
        if step.op == "move":
            before = index.shape
            index = _replay(step, index)
            if len(shape) == 3 and seen is None and index.ndim == 4 and before == shape:
                b, first, second, third = index.shape
                if (b, first * second, third) == shape:
                    seen = (first, second)
                elif (b, first, second * third) == shape:
                    seen = (second, third)
        elif step.op == "cat":
            dim, offset, total = step.args
            size = list(index.shape)
            size[dim] = total
            larger = index.new_full(size, -1)
            larger.narrow(dim, offset, index.shape[dim]).copy_(index)
            index = larger
        elif step.op in ("last", "second"):
            dim = index.ndim - 1 if step.op == "last" else 1
            size = list(index.shape)
            size[dim] = step.width
            if _mixes_positions(index, shape, dim):  # patches merge: places start again here
                shape, seen = tuple(size), None
                index = _count(shape)
            else:
                index = index.narrow(dim, 0, 1).expand(size)
    return index, shape, seen


def _count(shape: tuple[int, ...]) -> Tensor:
    if len(shape) not in (3, 4) or math.prod(shape) == 0:
        raise ValueError("no picture and no list of tokens")
    count = math.prod(shape)
    # 32 bits where they do: later there is a number for each channel of the projected tokens
    return torch.arange(count, dtype=torch.int32 if count < 2**31 else torch.int64).reshape(shape)


def _spatial(
    shape: tuple[int, ...], axes: list[Tensor], picture: tuple[int, int] | None
) -> tuple[int, int] | None:
    """Return which dimensions of a source (B, ., ., .) are rows and columns, None if unknown."""
    if picture is None:
        return None
    first, last = (bool((axes[i] != axes[i].flatten()[0]).any()) for i in (1, 3))
    options = [o for o, wrong in (((2, 3), first), ((1, 2), last)) if not wrong]
    for rows, columns in options:
        steps = picture[0] / shape[rows], picture[1] / shape[columns]
        # one stride in both directions, up to padding of the last window
        if min(steps) >= 0.99 and max(steps) / min(steps) < 1.35:
            return rows, columns
    return None


def _mixes_positions(index: Tensor, shape: tuple[int, ...], dim: int) -> bool:
    """Say whether entries along `dim` come from several positions, not from one channel axis."""
    axes = _unravel(index, shape)
    varying = sum(bool((a != a.narrow(dim, 0, 1)).any()) for a in axes[1:])
    return varying > 1


def _replay(step: Moved, index: Tensor) -> Tensor:
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
        sizes = args[0] if args and isinstance(args[0], (tuple, list)) else args
        return index.reshape(sizes or kwargs["size"])
    found = step.fn(index, *args, **kwargs)
    return found if step.pick is None else found[step.pick]


def _unravel(index: Tensor, shape: tuple[int, ...]) -> list[Tensor]:
    axes = []
    for size in reversed(shape):
        axes.append(index % size)
        index = index // size
    return axes[::-1]
