"""Figures of attention. Each returns a matplotlib Figure that belongs to no window.

Save one with `figure.savefig("x.svg")`. No figure normalises in silence: the range is on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import DataError
from .recording import AttentionRecord, LayerRecord

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CAPTION = "attention weights: where a token takes information from, not why the model decides"
COLORMAP = "inferno"


def _figure(width: float, height: float) -> Figure:
    # not through pyplot: a figure here neither opens a window nor stays in memory
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", dpi=110)


def _matrix(weights: Any, rows: Sequence[str], columns: Sequence[str]) -> np.ndarray:
    matrix = np.asarray(weights.detach().cpu() if hasattr(weights, "detach") else weights, float)
    if matrix.ndim != 2 or matrix.shape != (len(rows), len(columns)):
        raise DataError(
            f"weights of shape {matrix.shape} do not fit {len(rows)} row and {len(columns)} "
            "column names; pass one matrix (queries, keys) with a name for each"
        )
    return matrix


def head_grid(record: AttentionRecord, query: int = -1, *, width: float = 11.0) -> Figure:
    """Draw one thumbnail for each layer (down) and head (across), for one query.

    Args:
        record: from `attention.views.record`.
        query: a patch, or -1 for the class token; see `LayerRecord.map`. For text, a token.
        width: of the figure in inches.

    Raises:
        DataError: the query exists in no layer.
    """
    drawn, problem = [], None
    for layer in record.layers:
        try:
            window, row = layer.locate(query)
            if layer.key_grid is not None:
                cells = [layer.map(query, head) for head in range(layer.heads)]
            else:
                cells = [layer.weights(h)[window, row][None] for h in range(layer.heads)]
        except DataError as error:
            problem = error
            continue
        drawn.append((layer, cells))
    if not drawn:
        raise problem or DataError("the record holds no layers")
    columns = max(len(cells) for _, cells in drawn)
    side = width / (columns + 1.2)
    figure = _figure(width, side * len(drawn) + 0.9)
    axes = figure.subplots(len(drawn), columns, squeeze=False)
    for number, (layer, cells) in enumerate(drawn):
        for head in range(columns):
            ax = axes[number, head]
            ax.set_xticks([])
            ax.set_yticks([])
            if head >= len(cells):
                ax.set_visible(False)
                continue
            top = float(cells[head].max()) or 1.0
            ax.imshow(
                cells[head], cmap=COLORMAP, vmin=0, vmax=top, aspect="equal" if layer.key_grid
                else "auto", interpolation="nearest",
            )  # fmt: skip
            if number == 0:
                ax.set_title(str(head), fontsize=8, pad=2)
        axes[number, 0].set_ylabel(
            str(number), fontsize=8, rotation=0, ha="right", va="center", labelpad=6
        )
    who = "class token" if query == -1 else f"query {query}"
    figure.suptitle(
        f"{record.model}: {who}, layer (down) x head (across); each map from 0 to its own maximum",
        fontsize=9,
    )
    return figure


def token_heatmap(
    weights: Any,
    queries: Sequence[str],
    keys: Sequence[str] | None = None,
    *,
    title: str = "",
    share: bool = True,
) -> Figure:
    """Draw a matrix of attention with its tokens: each row says where that token looks.

    Args:
        weights: (queries, keys), rows summing to 1.
        queries: names of the rows.
        keys: names of the columns; None: the same as the rows.
        title: above the figure.
        share: colours from 0 to 1; False: from 0 to the largest weight.
    """
    keys = queries if keys is None else keys
    matrix = _matrix(weights, queries, keys)
    cell = float(np.clip(9.0 / max(len(queries), len(keys), 1), 0.13, 0.45))
    figure = _figure(len(keys) * cell + 2.6, len(queries) * cell + 2.0)
    ax = figure.subplots()
    top = 1.0 if share else float(matrix.max()) or 1.0
    picture = ax.imshow(matrix, cmap=COLORMAP, vmin=0, vmax=top, interpolation="nearest")
    size = float(np.clip(cell * 28, 4, 9))
    upright = max(map(len, keys), default=0) <= 1
    ax.set_xticks(range(len(keys)), keys, rotation=0 if upright else 90, fontsize=size)
    ax.set_yticks(range(len(queries)), queries, fontsize=size)
    ax.set_xlabel("key: is looked at")
    ax.set_ylabel("query: looks")
    figure.colorbar(picture, ax=ax, label="attention weight", shrink=0.8)
    ax.set_title(title, fontsize=10)
    return figure


def alignment(
    weights: Any, source: Sequence[str], target: Sequence[str], *, title: str = ""
) -> Figure:
    """Draw a sequence alignment: which source words each produced word looked at.

    Bahdanau et al. 2015 (arXiv:1409.0473), figure 3: the source runs across, the target down.

    Args:
        weights: (target, source).
        source: words across.
        target: words down.
        title: above.
    """
    figure = token_heatmap(weights, target, source, title=title)
    ax = figure.axes[0]
    ax.xaxis.tick_top()
    ax.xaxis.set_label_position("top")
    ax.set_xlabel("source")
    ax.set_ylabel("target")
    return figure


def token_graph(
    weights: Any,
    queries: Sequence[str],
    keys: Sequence[str] | None = None,
    *,
    title: str = "",
    least: float = 0.02,
    width: float = 5.5,
) -> Figure:
    """Draw attention as a weighted graph: lines between two columns, as thick as the weight.

    Args:
        weights: (queries, keys).
        queries: left column, the tokens that look.
        keys: right column, the tokens looked at; None: the same.
        title: above.
        least: lighter lines are left out; how much weight that is stands below the figure.
        width: in inches.
    """
    from matplotlib.collections import LineCollection

    keys = queries if keys is None else keys
    matrix = _matrix(weights, queries, keys)
    tall = max(len(queries), len(keys))
    figure = _figure(width, 0.26 * tall + 1.2)
    ax = figure.subplots()

    def rows(count: int) -> np.ndarray:
        return np.arange(count) + (tall - count) / 2

    left, right = rows(len(queries)), rows(len(keys))
    shown = np.argwhere(matrix >= least)
    values = matrix[tuple(shown.T)]
    lines = [np.array([(0.0, left[i]), (1.0, right[j])]) for i, j in shown]
    # the width is the weight: it is not stretched to the largest
    ax.add_collection(
        LineCollection(lines, linewidths=6 * values, alpha=0.65, color="#7a1f6b", zorder=1)
    )
    for x, names, where, side in ((-0.03, queries, left, "right"), (1.03, keys, right, "left")):
        for y, token in zip(where, names, strict=True):
            ax.text(x, y, token, ha=side, va="center", fontsize=8, parse_math=False)
    ax.set_xlim(-0.45, 1.45)
    ax.set_ylim(tall - 0.5, -0.8)
    ax.axis("off")
    ax.set_title(title, fontsize=10)
    hidden = 1 - values.sum() / max(matrix.sum(), 1e-30)
    figure.supxlabel(
        f"query (left) looks at key (right); line width = weight\n"
        f"lines under {least:g} left out: {hidden:.0%} of the weight",
        fontsize=8,
    )
    return figure


def patch_overlay(
    record: AttentionRecord, layer: int | str = -1, head: int | str = "mean", query: int = -1
) -> Any:
    """Draw where one patch, or the class token, attends, over the image.

    Args:
        record: with an image.
        layer: number or name.
        head: number, "mean" or "max".
        query: a patch of the layer's grid, or -1 for the class token; see `LayerRecord.map`.

    Returns:
        A PIL image.

    Raises:
        DataError: there is no image, no such layer, head or query.
    """
    from ...render import Tile, grid

    if record.image is None:
        raise DataError("the record has no image; pass image= to attention.views.record")
    chosen = _layer(record, layer)
    values = chosen.map(query, head)
    truth = None
    who = f"token {query}"
    if query >= 0 and chosen.query_grid is not None:
        rows, columns = chosen.query_grid
        y, x = divmod(query, columns)
        height, width = record.image.shape[:2]
        truth = np.array(
            [[x * width / columns, y * height / rows, (x + 1) * width / columns,
              (y + 1) * height / rows]]
        )  # fmt: skip
        who = f"patch ({y}, {x}), dashed"
    elif query == -1:
        who = "class token"
    return grid(
        [[Tile(record.image, values, title=f"{chosen.name}, head {head}", truth=truth,
               caption=f"looks: {who}")]],
        title=f"Attention of {record.model}", units="attention weight", mode="max", side=440,
    )  # fmt: skip


def _layer(record: AttentionRecord, layer: int | str) -> LayerRecord:
    if isinstance(layer, str):
        found = [one for one in record.layers if one.name == layer]
        if not found:
            names = ", ".join(one.name for one in record.layers)
            raise DataError(f"layer {layer!r} is not in the record; it holds {names}")
        return found[0]
    if not -len(record.layers) <= layer < len(record.layers):
        raise DataError(f"layer {layer}: the record holds {len(record.layers)}")
    return record.layers[layer]


def word_maps(
    image: np.ndarray, maps: Any, words: Sequence[str], *, title: str = "", columns: int = 5
) -> Any:
    """Draw one overlay for each word: where in the image it was taken from.

    Show, Attend and Tell (Xu et al. 2015, arXiv:1502.03044), figure 1.

    Args:
        image: (H, W, 3) uint8.
        maps: (words, h, w) attention of each word over the image.
        words: the words.
        title: above.
        columns: pictures a row.

    Returns:
        A PIL image; all maps have one scale.
    """
    from ...render import Tile, grid

    values = np.asarray(maps.detach().cpu() if hasattr(maps, "detach") else maps, np.float32)
    if values.ndim != 3 or len(values) != len(words):
        raise DataError(
            f"maps of shape {values.shape} for {len(words)} words; expected (words, h, w)"
        )
    tiles = [Tile(image, one, title=word) for one, word in zip(values, words, strict=True)]
    rows = [tiles[i : i + columns] for i in range(0, len(tiles), columns)]
    return grid(rows, title=title, units="attention weight", mode="max")
