"""Vision transformers without labels: maps of the class token, of the patches and of registers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ...errors import DataError
from ._canvas import mark, new_figure, picture, scale_bar, show_map, show_photo

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Grid = tuple[int, int]


def token_map(weights: Tensor, grid: Grid, token: int = 0) -> Tensor:
    """Return where one token looks among the patches.

    Args:
        weights: (..., N, N), rows summing to 1; patches are the last rows x columns tokens.
        grid: (rows, columns) of patches.
        token: the query: 0 is the class token, registers follow it.

    Returns:
        (..., rows, columns): the token's weights as they are; with what it gives to the tokens
        before the patches they sum to 1.
    """
    prefix = _prefix(weights, grid)
    return weights[..., token, prefix:].unflatten(-1, grid)


def mean_query_map(weights: Tensor, grid: Grid) -> Tensor:
    """Return where the patches look on average: for models without a class token.

    Args:
        weights: (..., N, N) as in `token_map`.
        grid: (rows, columns) of patches.

    Returns:
        (..., rows, columns): mean over all patches' rows.
    """
    prefix = _prefix(weights, grid)
    return weights[..., prefix:, prefix:].mean(-2).unflatten(-1, grid)


def mass_mask(maps: Tensor, mass: float = 0.6) -> Tensor:
    """Return the smallest set of patches that holds this share of a map's mass.

    Caron et al. 2021 (DINO, arXiv:2104.14294), figure 1: 60 % of each head's mass. The mass is
    that on the patches, what goes to other tokens left out. Of equal weights those that come
    first are kept.

    Args:
        maps: (..., h, w), not negative.
        mass: above 0, at most 1; held to 1e-6, in float64 to 1e-12.

    Returns:
        (..., h, w) bool.

    Raises:
        DataError: mass is out of range.
    """
    if not 0 < mass <= 1:
        raise DataError(f"mass={mass}, expected a share above 0 and at most 1")
    flat = maps.flatten(-2).double()
    order = flat.argsort(dim=-1, descending=True, stable=True)
    share = flat.gather(-1, order).cumsum(-1) / flat.sum(-1, keepdim=True).clamp_min(1e-300)
    # a patch is needed while those before it do not hold enough
    before = torch.nn.functional.pad(share, (1, -1))
    # half of float32 weights may sum to 0.4999999
    needed = before < mass - (1e-12 if maps.dtype == torch.float64 else 1e-6)
    return torch.zeros_like(flat, dtype=torch.bool).scatter(-1, order, needed).view(maps.shape)


def _prefix(weights: Tensor, grid: Grid) -> int:
    count = grid[0] * grid[1]
    if weights.ndim < 2 or weights.shape[-1] != weights.shape[-2] or weights.shape[-1] < count:
        raise DataError(
            f"weights of shape {tuple(weights.shape)} for {grid[0]} x {grid[1]} patches; expected "
            f"(..., N, N) with N = {count} and the class and register tokens before them"
        )
    return weights.shape[-1] - count


def head_maps(
    maps: Any,
    photo: Any,
    *,
    names: Sequence[str] | None = None,
    masks: Any = None,
    query: tuple[int, int] | None = None,
    title: str = "",
    label: str = "attention weight",
) -> Figure:
    """Draw one map for each head over the photo, and below it the mask of its mass if given.

    Args:
        maps: (heads, h, w), each drawn from 0 to its own maximum, which stands above it.
        photo: (3, H, W) in [0, 1] or (H, W, 3) uint8.
        names: of the maps; None: "head 0", ...
        masks: (heads, h, w) bool, see `mass_mask`; shown by what they keep of the photo.
        query: the patch that looks, outlined.
        title: above.
        label: of the colour bar.

    Raises:
        DataError: shapes do not fit.
    """
    values = np.asarray(maps.detach().cpu() if isinstance(maps, Tensor) else maps, float)
    if values.ndim != 3:
        raise DataError(f"maps of shape {values.shape}; expected (heads, h, w) of one image")
    names = list(names or (f"head {h}" for h in range(len(values))))
    if len(names) != len(values):
        raise DataError(f"{len(names)} names for {len(values)} maps")
    seen = picture(photo)
    lines = 2 if masks is not None else 1
    figure = new_figure(1.75 * (len(values) + 1) + 0.8, 2.0 * lines + 0.5)
    axes = figure.subplots(lines, len(values) + 1, squeeze=False)
    show_photo(axes[0, 0], seen, "input")
    if query is not None:
        mark(axes[0, 0], seen, values.shape[1:], query)
    for ax, name, one in zip(axes[0, 1:], names, values, strict=True):
        top = float(one.max())
        show_map(ax, seen, one, top=top, title=f"{name}\nmax {top:.2g}")
    if masks is not None:
        kept = np.asarray(masks.cpu() if isinstance(masks, Tensor) else masks, bool)
        axes[1, 0].set_visible(False)
        for ax, one, value in zip(axes[1, 1:], kept, values, strict=True):
            held = value[one].sum() / max(value.sum(), 1e-30)
            show_photo(ax, _cut(seen, one), f"{one.mean():.0%} of patches\nhold {held:.0%}")
    scale_bar(figure, axes[0], 1.0, "0 to each map's max", ticks=[0, 1])
    figure.axes[-1].set_yticklabels(["0", "max"])
    figure.suptitle(f"{title}{': ' if title else ''}{label}", fontsize=9)
    return figure


def _cut(photo: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Keep the photo inside the mask; fade it elsewhere."""
    rows = np.arange(photo.shape[0]) * mask.shape[0] // photo.shape[0]
    columns = np.arange(photo.shape[1]) * mask.shape[1] // photo.shape[1]
    inside = mask[rows][:, columns, None]
    return np.where(inside, photo, 0.85 + 0.15 * photo.mean(2, keepdims=True))
