"""The gallery as one HTML page that opens offline: a card for each mechanism."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import DataError, OutputExists
from ..templates import template
from ..writing import write_file
from .card import FAMILIES
from .drawing import Drawing, draw_all

#: what the families have in common, said under their headings
SAID = {
    "channel": "Which channels count: one factor for each, the same at every place.",
    "spatial": "Which places count: a factor, an offset or a weight for each place.",
    "hard": "Where to look at all: places are chosen, and what is not chosen is not computed.",
    "temporal": "Which moments count.",
    "branch": "Which path counts: branches of different reach are mixed, or layers carried past.",
    "sequence": "Which tokens count for the token being written.",
    "self-supervised": "What transformers look at that learned without labels.",
}


def page(drawings: Sequence[Drawing] | None = None) -> str:
    """Return the gallery as HTML: no address in it, no script, nothing fetched, all text escaped.

    Args:
        drawings: from `draw_all`; None draws every card.
    """
    from markupsafe import Markup

    drawings = draw_all() if drawings is None else drawings
    # what `equation_svg` returns is made of numbers alone
    layout = template(__package__, "gallery.html", number=number_text, drawn=Markup)
    families: list[dict[str, Any]] = []
    for family in FAMILIES:
        found = [d for d in drawings if d.card.family == family]
        if found:
            families.append({"name": family, "said": SAID[family], "cards": found})
    return layout.render(
        families=families,
        count=len(drawings),
        failed=[d for d in drawings if d.error is not None],
        version=__version__,
    )


def save_page(
    path: str | Path, drawings: Sequence[Drawing] | None = None, *, force: bool = False
) -> Path:
    """Write `page(drawings)` to a file, whole or not at all.

    Args:
        path: of the HTML file; missing folders are made.
        drawings: from `draw_all`; None draws every card.
        force: overwrite.

    Raises:
        OutputExists: the file exists and `force` is not set.
        DataError: it cannot be written.
    """
    path = Path(path)
    if path.exists() and not force:  # said before the work is done
        raise OutputExists(f"{str(path)!r} exists already; pass force=True (--force), or another")
    try:
        return write_file(path, page(drawings), force=force)
    except OutputExists:
        raise
    except OSError as error:
        raise DataError(
            f"cannot write {str(path)!r}: {error.strerror or error}; choose another folder"
        ) from error


def number_text(value: float) -> str:
    """Return a number as the page shows it: whole ones whole, others with three digits."""
    if not math.isfinite(value):
        return "–"
    whole = value == int(value) and abs(value) < 1e6
    return (str(int(value)) if whole else f"{value:.3g}").replace("-", "−")
