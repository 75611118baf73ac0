"""`--masks-from`: masks of a segmenter where the data has none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ._app import say

if TYPE_CHECKING:
    from ..data import Dataset


def segmented(
    dataset: Dataset, name: str, classes: Sequence[Any], device: str | None,
    *, everywhere: Sequence[str] = (),
) -> Dataset:  # fmt: skip
    """Return the dataset with the segmenter's masks of the classes, and say how many there are.

    Raises:
        DataError: the segmenter has no such class, or found none of them anywhere.
    """
    from ..data.segmented import with_segments
    from ..errors import DataError, TargetError
    from ..models.classes import class_index
    from ..models.segmenting import load_segmenter
    from ._console import counted

    segmenter = load_segmenter(name, device=device)
    try:
        numbers = {n: class_index(n, len(segmenter.labels), segmenter.labels) for n in classes}
    except TargetError as error:
        raise DataError(f"{name} cannot say where it is: {error}") from error
    with counted("segmenting", len(dataset)) as seen:

        def segment(photo: Any) -> Any:
            seen(1)
            return segmenter(photo)

        found, empty = with_segments(dataset, segment, numbers, source=name, everywhere=everywhere)
    counts = {n: sum(s.mask_source(n) == name for s in found) for n in classes}
    say(
        f"masks from {name}, not drawn by people: "
        + ", ".join(f"{count} of {n}" for n, count in counts.items())
        + (f"; in {empty} images it finds nothing of what they are labelled with" if empty else "")
    )
    if not any(counts.values()):
        raise DataError(f"{name} finds nothing of {', '.join(classes)} in any image")
    return found
