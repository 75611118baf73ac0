"""Attention over parallel paths: which share of each channel comes from which branch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import DataError
from ._canvas import array, new_figure, scale_bar

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")


def branch_shares(
    shares: Any, *, names: Sequence[str] | None = None, title: str = "", sort: bool = False
) -> Figure:
    """Draw the share of each branch in each channel as stacked bars that reach 1.

    Selective kernels (Li et al. 2019, arXiv:1903.06586), split attention (Zhang et al. 2020,
    arXiv:2004.08955), a highway layer's gate and its complement (Srivastava et al. 2015,
    arXiv:1505.00387).

    Args:
        shares: (branches, C) or (branches, C, 1, 1), summing to 1 over the branches.
        names: of the branches.
        title: above.
        sort: channels by the first branch's share instead of in their order.

    Raises:
        DataError: shapes do not fit, or shares do not sum to 1.
    """
    if hasattr(shares, "flatten") and getattr(shares, "ndim", 0) > 2:
        shares = shares.reshape(shares.shape[0], -1)
    values = array(shares, 2, "the shares")
    names = list(names or (f"branch {b}" for b in range(len(values))))
    if len(names) != len(values):
        raise DataError(f"{len(names)} names for {len(values)} branches")
    gap = abs(values.sum(0) - 1).max()
    if gap > 1e-3:
        raise DataError(
            f"the branches' shares sum to 1 only within {gap:.3g}; expected (branches, channels) "
            "of weights that share each channel out"
        )
    order = np.argsort(-values[0], kind="stable") if sort else np.arange(values.shape[1])
    figure = new_figure(8.6, 2.7)
    ax = figure.subplots()
    base = np.zeros(values.shape[1])
    for b, (name, row) in enumerate(zip(names, values, strict=True)):
        ax.bar(
            range(len(order)), row[order], bottom=base[order], width=0.9,
            color=_COLOURS[b % len(_COLOURS)], label=f"{name}: mean share {row.mean():.2f}",
        )  # fmt: skip
        base += row
    equal = 1 / len(values)
    for b in range(1, len(values)):
        ax.axhline(b * equal, color="white", linewidth=0.9, linestyle=":")
    ax.set_ylim(0, 1)
    ax.set_xlim(-0.7, len(order) - 0.3)
    ax.set_xlabel(f"channel{', sorted by the first branch' if sort else ''}", fontsize=8)
    ax.set_ylabel("share, 0 to 1", fontsize=8)
    ax.tick_params(labelsize=7)
    ax.legend(
        fontsize=8, frameon=False, ncols=len(names), loc="lower center", bbox_to_anchor=(0.5, 1.0)
    )
    figure.suptitle(title, fontsize=9)
    return figure


def gates_by_layer(gates: Any, *, title: str = "", name: str = "gate") -> Figure:
    """Draw the gates of a stack of layers: a line a layer, a cell a unit, and the layers' means.

    Args:
        gates: (layers, D), each in [0, 1]: what share of each unit is computed anew.
        title: above.
        name: of the colour bar.
    """
    values = array(gates, 2, "the gates")
    figure = new_figure(8.6, 0.16 * len(values) + 1.6)
    cells, means = figure.subplots(1, 2, width_ratios=[4, 1], sharey=True)
    cells.imshow(values, cmap="inferno", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    cells.set_xlabel("unit", fontsize=8)
    cells.set_ylabel("layer", fontsize=8)
    means.barh(range(len(values)), values.mean(1), color="#5f5f64", height=0.8)
    means.set_xlim(0, 1)
    means.set_xlabel(f"mean {name}", fontsize=8)
    for ax in (cells, means):
        ax.tick_params(labelsize=7)
    cells.locator_params(integer=True)
    scale_bar(figure, cells, 1.0, f"{name}, 0 to 1", location="left")
    figure.suptitle(title, fontsize=9)
    return figure
