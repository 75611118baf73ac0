"""Alignments of sequences, with the source words that are right and the window that is open."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...attention.views.figures import alignment
from ...errors import DataError
from ._canvas import SECOND, array

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MARK = "#00d5ff"


def aligned(
    weights: Any,
    source: Sequence[str],
    target: Sequence[str],
    *,
    origin: Sequence[Sequence[int]] | None = None,
    centres: Any = None,
    half: int | None = None,
    title: str = "",
) -> Figure:
    """Draw `views.figures.alignment` with what is known of the right one.

    Args:
        weights: (target, source), each >= 0; colours run from 0 to 1.
        source: words across.
        target: words down.
        origin: for each target word, the positions of the source words that it comes from;
            they are framed.
        centres: (target,) p_t of local attention (Luong et al. 2015, arXiv:1508.04025), in source
            positions; a bar spans the window around each.
        half: D of that window, p_t - D to p_t + D.
        title: above.

    Raises:
        DataError: `origin` or `centres` is not as long as the target, or a window has no `half`.
    """
    from matplotlib.patches import Rectangle

    figure = alignment(weights, source, target, title=title)
    ax = figure.axes[0]
    notes = []
    if origin is not None:
        if len(origin) != len(target):
            raise DataError(f"origin of {len(origin)} words for a target of {len(target)}")
        for row, places in enumerate(origin):
            for place in places:
                ax.add_patch(
                    Rectangle(
                        (place - 0.5, row - 0.5), 1, 1, fill=False, edgecolor=MARK, linewidth=1.4
                    )
                )
        notes.append("framed: where each one comes from")
    if centres is not None:
        middle = array(centres, 1, "the centres")
        if len(middle) != len(target) or half is None:
            raise DataError(
                f"{len(middle)} centres, half={half} for a target of {len(target)}; expected one "
                "centre a word, and half"
            )
        rows = np.arange(len(target))
        ax.hlines(rows, middle - half, middle + half, colors=SECOND, linewidth=1.6)
        ax.plot(middle, rows, "o", color=SECOND, markeredgecolor="white", markersize=5)
        ax.set_xlim(-0.5, len(source) - 0.5)
        notes.append(f"line: window of {half} to each side, dot: its centre")
    if notes:
        figure.supxlabel(";  ".join(notes), fontsize=8)
    return figure
