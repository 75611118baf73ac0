"""Captions: one map of the picture for each word written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ...errors import DataError
from ._canvas import array, mark, new_figure, picture, scale_bar, show_map, show_photo

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def word_maps(
    maps: Any,
    words: Sequence[str],
    photo: Any,
    *,
    places: Any = None,
    columns: int = 4,
    title: str = "",
) -> Figure:
    """Draw the picture, and for each word where in it the word was taken from.

    Show, Attend and Tell (Xu et al. 2015, arXiv:1502.03044), figures 2 and 3. All maps have one
    scale, from 0 to the largest weight. `views.figures.word_maps` makes the same as an image.

    Args:
        maps: (words, h, w), each summing to 1.
        words: the words.
        photo: (3 or 1, H, W) in [0, 1] or (H, W, 3) uint8.
        places: (words, 2) row and column of the one cell that hard attention read, framed; None
            for soft attention.
        columns: pictures a row.
        title: above.

    Raises:
        DataError: there is not one map, or one place, a word.
    """
    values, shown = array(maps, 3, "the maps"), picture(photo)
    cells = None if places is None else array(places, 2, "the places").astype(int)
    if len(values) != len(words) or (cells is not None and len(cells) != len(words)):
        raise DataError(
            f"{len(values)} maps"
            + ("" if cells is None else f" and {len(cells)} places")
            + f" for {len(words)} words"
        )
    rows = -(-(len(words) + 1) // columns)
    figure = new_figure(1.75 * columns + 0.9, 1.95 * rows + 0.5)
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    show_photo(axes[0], shown, "the picture")
    top = float(values.max())
    for number, word in enumerate(words):
        ax = axes[number + 1]
        show_map(ax, shown, values[number], top=top, title=word)
        if cells is not None:
            mark(ax, shown, values.shape[1:], tuple(cells[number]))
    for ax in axes[len(words) + 1 :]:
        ax.set_visible(False)
    scale_bar(figure, list(axes), top, "attention weight of a cell")
    figure.suptitle(title, fontsize=10)
    if cells is not None:
        figure.supxlabel("framed: the one cell that the word was read from", fontsize=8)
    return figure
