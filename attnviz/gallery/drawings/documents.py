"""Hierarchical attention: the words of a document, shaded by how much they weigh."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import DataError
from ._canvas import ACCENT, array, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def document(
    sentence_weights: Any,
    word_weights: Any,
    sentences: Sequence[Sequence[str]],
    *,
    colormap: str = "Oranges",
    title: str = "",
) -> Figure:
    """Draw one sentence a row: a bar for its weight, then its words, shaded by theirs.

    Hierarchical attention networks (Yang et al. 2016, doi:10.18653/v1/N16-1174), figure 5. Words
    are shaded from 0 to 1 within their own sentence, not multiplied by the sentence's weight.

    Args:
        sentence_weights: (L,), summing to 1; more than there are sentences are padding.
        word_weights: (L, W), each row summing to 1 over its words.
        sentences: their words.
        colormap: of the words, from 0 to 1.
        title: above.

    Raises:
        DataError: there are fewer weights than sentences or words.
    """
    from matplotlib import colormaps
    from matplotlib.patches import Rectangle

    rows = array(sentence_weights, 1, "the sentences' weights")
    words = array(word_weights, 2, "the words' weights")
    longest = max(map(len, sentences), default=0)
    if len(rows) < len(sentences) or words.shape[0] < len(sentences) or words.shape[1] < longest:
        raise DataError(
            f"weights of shape {rows.shape} and {words.shape} for {len(sentences)} sentences of up "
            f"to {longest} words"
        )
    colours = colormaps[colormap]
    widths = [[max(0.5, 0.085 * len(word) + 0.2) for word in sentence] for sentence in sentences]
    right = max((sum(w) + 0.06 * len(w) for w in widths), default=1.0)
    figure = new_figure(right + 1.8, 0.5 * len(sentences) + 1.3)
    ax = figure.subplots()
    for row, sentence in enumerate(sentences):
        ax.add_patch(Rectangle((-1.1, row - 0.3), rows[row], 0.6, color=ACCENT, gid="sentence"))
        ax.text(-1.15, row, f"{rows[row]:.2f}", ha="right", va="center", fontsize=8)
        left = 0.0
        for place, word in enumerate(sentence):
            weight, wide = float(np.clip(words[row, place], 0, 1)), widths[row][place]
            ax.add_patch(
                Rectangle(
                    (left, row - 0.36), wide, 0.72, facecolor=colours(weight), edgecolor="none",
                    gid=f"word {row} {place}",
                )
            )  # fmt: skip
            ax.text(
                left + wide / 2, row - 0.08, word, ha="center", va="center", fontsize=8.5,
                color="white" if weight > 0.6 else "black", parse_math=False,
            )  # fmt: skip
            ax.text(
                left + wide / 2, row + 0.24, f"{words[row, place]:.2f}", ha="center", va="center",
                fontsize=5.5, color="white" if weight > 0.6 else "#5f5f64",
            )  # fmt: skip
            left += wide + 0.06
    ax.set_xlim(-1.6, right)
    ax.set_ylim(len(sentences) - 0.4, -0.6)
    ax.axis("off")
    ax.set_title(title, fontsize=10)
    figure.supxlabel(
        "bar: weight of the sentence, all together 1;  shade: weight of the word in its sentence, "
        "0 to 1",
        fontsize=8,
    )
    return figure
