"""`--masks-from`, `--context text:...`: masks of a model where the data has none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ._app import say

if TYPE_CHECKING:
    from ..data import Dataset
    from ..models.dense import DensePrompts


def segmented(
    dataset: Dataset, name: str, classes: Sequence[Any], device: str | None,
    *, everywhere: Sequence[str] = (),
) -> Dataset:  # fmt: skip
    """Return the dataset with the segmenter's masks of the classes, and say how many there are.

    Raises:
        DataError: the segmenter has no such class, or found none of them anywhere.
    """
    from ..errors import DataError, TargetError
    from ..models.classes import class_index
    from ..models.segmenting import load_segmenter

    segmenter = load_segmenter(name, device=device)
    try:
        numbers = {n: class_index(n, len(segmenter.labels), segmenter.labels) for n in classes}
    except TargetError as error:
        raise DataError(f"{name} cannot say where it is: {error}") from error
    return _marked(dataset, segmenter, numbers, name, everywhere)


def by_prompts(dataset: Dataset, text: str, clip: Path, device: str | None) -> tuple[Dataset, str]:
    """Return the dataset with masks of what a prompt names in all images, and the prompt.

    Args:
        text: "water|land": what is looked for, and what else there is.
        clip: folder of a CLIP model, or "tiny-clip".

    Raises:
        DataError: nothing of it is found anywhere.
        ModelError, TargetError: as `attnviz.models.dense.dense_prompts`.
    """
    found = dense(text, clip, device)
    prompts = found.labels
    source = f"{found.name} by the prompt {prompts[0]!r} against {', '.join(prompts[1:])}"

    def segment(photo: Any) -> Any:
        return found(photo).astype(int)

    return _marked(dataset, segment, {prompts[0]: 1}, source, prompts[:1]), prompts[0]


def dense(text: str, clip: Path, device: str | None) -> DensePrompts:
    """Return the CLIP model that says where it sees which of the prompts of "water|land"."""
    from ..models import load
    from ..models.dense import dense_prompts

    prompts = [word.strip() for word in text.split("|") if word.strip()]
    if len(prompts) < 2:
        raise typer.BadParameter(
            "prompts are a contest: say what else is on the photos, --context 'text:water|land' "
            "or --prompts 'water|land'"
        )
    model = load(f"hf:{clip}" if clip.is_dir() else str(clip), device=device)
    return dense_prompts(model, prompts)


def _marked(
    dataset: Dataset, segmenter: Callable[[Any], Any], numbers: Mapping[str, int], name: str,
    everywhere: Sequence[str],
) -> Dataset:  # fmt: skip
    from ..data.segmented import with_segments
    from ..errors import DataError
    from ._console import counted

    classes = list(numbers)
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
