"""Images to annotate next, each with a region from the model's own map to correct."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from ..data import Dataset, Sample
from ..data.prepared import Prepared
from ..data.proposing import Proposal
from ..errors import DataError
from ..explaining import explain
from ..methods.progress import counting
from ..models import LoadedModel, resolve_preprocess
from .choosing import choose

#: share of a map's maximum from which on a pixel belongs to the region
THRESHOLD = 0.5
METHOD = "gradcam"


def propose(
    loaded: LoadedModel,
    dataset: Dataset,
    budget: int,
    *,
    classes: Mapping[str, int],
    preprocess: Any = None,
    criterion: str = "outside",
    layer: Any = None,
    batch_size: int = 32,
) -> tuple[list[Proposal], int]:
    """Return the images that are worth annotating next, and how many there were to choose from.

    Chosen among the images of the classes given that have no mask or box of their class; see
    `choose`. The region is the largest part of the class's Grad-CAM at half its maximum or more.

    Args:
        loaded: what `attnviz.load` returns.
        dataset: images with labels.
        budget: how many at most.
        classes: class of the data -> the model's class index.
        preprocess: as in `attnviz.explain`.
        criterion, layer, batch_size: see `choose`.

    Raises:
        DataError: all images are annotated, or none shows one of the classes.
    """
    pool = [(s, n) for s in dataset for n in classes if n in s.labels and not _annotated(s, n)]
    if not pool:
        raise DataError(
            f"no image of {', '.join(classes)} is without a mask or box: there is nothing to choose"
        )
    prepare = resolve_preprocess(preprocess, loaded.module, loaded)

    def inputs(done: Callable[[int], None]) -> Iterator[tuple[Tensor, int]]:
        for sample, name in pool:
            yield Prepared.read(sample, prepare).input, classes[name]
            done(1)

    with counting("choosing", len(pool)) as done:
        found = choose(
            loaded.module, inputs(done), budget, criterion=criterion, layer=layer,
            batch_size=batch_size,
        )  # fmt: skip
    proposals = []
    for index in found.order:
        sample, name = pool[index]
        maps = explain(
            loaded, sample.read(), target=classes[name], method=METHOD, layer=layer,
            preprocess=prepare,
        )  # fmt: skip
        mask = maps.masks(THRESHOLD)[0]
        source = f"map: {METHOD} of {loaded.name}"
        proposals.append(Proposal(sample, name, mask, source, float(found.scores[index])))
    return proposals, len(pool)


def _annotated(sample: Sample, name: str) -> bool:
    return sample.has_mask(name) or any(b.label == name for b in sample.boxes)


def classes_among(
    names: Sequence[str],
    count: int,
    labels: Sequence[str] | None,
    members: Mapping[str, Sequence[int | str]],
) -> dict[str, int]:
    """Return class of the data -> the model's class index, of those that the model has.

    Args:
        names: classes of the data; without labels of the model, and as many of both, their order
            is that of its outputs.
        count: the model's classes.
        labels: their names, or None.
        members: what a class is called by the model, where it is called otherwise.

    Raises:
        DataError: the model has none of them.
        TargetError: `members` names a class that it has not.
    """
    from ..errors import TargetError
    from ..models.classes import class_index

    if labels is None and count == len(names):
        labels = names
    found = {}
    for name in names:
        if name in members:
            found[name] = class_index(members[name][0], count, labels)
            continue
        try:
            found[name] = class_index(name, count, labels)
        except TargetError:
            continue
    if not found:
        raise DataError(
            f"none of the data's classes ({', '.join(names[:10])}) is a class of the model; say "
            "what the model calls them (--classes boat=speedboat), or give its --labels"
        )
    return found
