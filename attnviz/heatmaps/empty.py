"""Maps without evidence: said once, since an empty picture looks like a fault of the tool."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from ..errors import FlatMapWarning
from .core import Heatmaps


def warn_of_flat(found: Sequence[Heatmaps], signed: bool | None) -> None:
    """Warn once of all maps that say the same everywhere; signed as in `explain`."""
    empty, zero = [], True
    for maps in found:
        rows = [i for i, flat in enumerate(maps.flat) if flat]
        if rows:
            which = "all maps" if len(rows) == len(maps) else f"map {', '.join(map(str, rows[:5]))}"
            more = ", ..." if 5 < len(rows) < len(maps) else ""
            at = f" at {maps.layer!r}" if maps.layer else ""
            zero &= not maps.values[rows].any()
            empty.append(f"{which}{more} of {maps.method}{at}")
    if empty:
        cut = ""
        if zero and not signed:  # a constant map has no such reason
            cut = "; nothing is above zero, and what is below is cut off: signed=True shows it"
        warnings.warn(
            f"no evidence: {'; '.join(empty)} {'is' if len(empty) == 1 else 'are'} flat{cut}",
            FlatMapWarning,
            stacklevel=4,
        )
