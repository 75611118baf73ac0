"""Where on the picture the tokens of an attention lie: windows put back, shift included.

The tap notes by which views, shifts, paddings and projections a tensor was made from another. The
same steps on a tensor of running numbers tell, for each token of each window, which position it
came from, for any way of cutting windows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ._tags import Moved


@dataclass(frozen=True, eq=False)
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


def places_of(moved: Moved, batch: int, tokens: int, picture: Any = None) -> Places | None:
    """Return the places of a tensor (batch x heads, tokens, channels) with that history.

    Args:
        moved: the history; its end has tokens in the second dimension from the end.
        batch: windows, B.
        tokens: T.
        picture: function from a number of tokens to (rows, columns), for sources that are lists
            of tokens.

    Returns:
        None if the history does not lead to one source position for each token.
    """
    steps: list[Moved] = []
    step: Moved | None = moved
    while step is not None:
        steps.append(step)
        step = step.parent
    shape = steps[-1].shape
    if len(shape) < 3 or math.prod(shape) == 0:
        return None
    index = torch.arange(math.prod(shape)).reshape(shape)
    try:
        for step in reversed(steps[:-1]):
            if step.op == "move":
                index = _replay(step, index)
            elif step.op in ("last", "second"):
                dim = index.ndim - 1 if step.op == "last" else 1
                size = list(index.shape)
                size[dim] = step.width
                if _mixes_positions(index, shape, dim):  # patches merge: places start again here
                    shape = tuple(size)
                    index = torch.arange(math.prod(shape)).reshape(shape)
                else:
                    index = index.narrow(dim, 0, 1).expand(size)
        if index.shape[-2] != tokens or index.numel() % (batch * tokens):
            return None
    except (RuntimeError, IndexError, TypeError, ValueError):
        return None
    # heads and channels of one token lie on one position
    lines = index.reshape(batch, -1, tokens, index.shape[-1]) if index.ndim >= 3 else None
    if lines is None:
        return None
    where = lines[:, 0, :, 0]
    axes = _unravel(where.clamp(min=0), shape)
    image = axes[0]
    if len(shape) == 3:
        grid = (1, shape[1]) if picture is None else picture(shape[1])
        position, count = axes[1], shape[1]
        if grid is None or math.prod(grid) != count:
            return None
    elif len(shape) == 4:
        channels_last = bool((axes[3] == axes[3][..., :1]).all()) and len(axes[1].unique()) >= 1
        varies = [len(a.unique()) > 1 for a in axes]
        if varies[3] and not varies[1]:
            channels_last = False
        elif varies[1] and not varies[3]:
            channels_last = True
        rows, columns = (1, 2) if channels_last else (2, 3)
        grid = (shape[rows], shape[columns])
        position = axes[rows] * shape[columns] + axes[columns]
    else:
        return None
    position = torch.where(where >= 0, position, torch.full_like(position, -1))
    if not bool((where >= 0).all()):  # a window of padding alone belongs to the image it is in
        image = torch.where(where >= 0, image, image.amax(1, keepdim=True))
    return Places(image, position, grid, shape[0])


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
            return step.fn(index.double(), widths, mode=mode).round().long()
        return step.fn(index, widths, value=-1)
    args = tuple(a.cpu() if isinstance(a, Tensor) else a for a in args)
    if step.fn is F.unfold:
        return F.unfold(index.double() + 1, *step.args, **kwargs).round().long() - 1
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
