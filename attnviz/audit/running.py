"""`confusion`: does the model know the object, or what usually surrounds it?"""

from __future__ import annotations

import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from ..data import Sample, refuse_leaks
from ..data.identity import data_stamp, run_versions, weights_stamp
from ..errors import AttnvizError, AttnvizWarning, DataError, MissingFile, PreprocessError
from ..limits import reading
from ..methods import METHODS
from ..models import default_layer, labels_of, resolve_model, resolve_preprocess
from ..models.activation import PROBABILITIES, are_probabilities
from ..models.outputs import class_count, is_binary
from ..processes import current
from ..targets import logits_of
from .asking import Asked, Interview, Question, as_it_is, interview, talk
from .examples import Example, choose_examples, examples_of
from .interventions import DEFAULT_FILLS, check_fills
from .journal import Row, SharedJournal
from .lending import draw_donors
from .log_odds import find_target
from .measuring import Audited, Instrument, has_attention, score_inputs
from .pictures import BACKGROUND, AuditPicture, PictureReader, as_samples, unit_range
from .result import AuditResult
from .selecting import distinct, without
from .summary import Names, Thresholds, summarise
from .table import AuditTable

DEFAULT_METHODS = ("gradcam", "hirescam", "layercam")


def confusion(
    model: Any,
    data: Any,
    *,
    object: str,
    context: str = BACKGROUND,
    target: Any = None,
    regions: str = "auto",
    context_masks: Callable[[np.ndarray], np.ndarray] | None = None,
    methods: Sequence[str] | None = None,
    layer: Any = None,
    fills: Sequence[str] = DEFAULT_FILLS,
    preprocess: Any = None,
    labels: Sequence[str] | None = None,
    device: Any = None,
    batch_size: int = 32,
    trained_on: Any = None,
    identical: str = "refuse",
    allow_empty_groups: bool = False,
    min_images: int = 10,
    min_clusters: int = 5,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
    examples: int = 12,
    journal: str | Path | None = None,
    resume: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> AuditResult:
    """Audit a classifier for confusing an object with its context: boats, or water?

    One pass over the data: for each image the maps of the CAM family and the scores of
    counterfactual images. The score is the log-odds of the object's class. The model is left as
    it was. Memory does not grow with the images but for some 300 bytes each.

    Args:
        model: a module, a name, or what `attnviz.load` returns; or a `Question` to a
            vision-language model.
        data: a `Dataset`, samples, or `GroupedImages`: images with and without the object, with
            and without the context, that the model was not trained on.
        object, context: class names in the data. The context "background", taken where none is
            named, is all that is not the object: the object is put in front of what surrounds
            others of its kind, and in front of images without it.
        target: the model's class for the object, by index or label, or several; None takes the
            class that is called like the object; of a model with a single logit class 1. Of a
            question: the words that mean the object (see `Question`).
        regions: where object and context are: "masks", "boxes", "groups" (only which image has
            what), or "auto": masks, and boxes where there is no mask. An image with neither counts
            in its group alone, and is counted (`settings["annotated"]`).
        context_masks: a function photo -> (h, w) mask of the context, such as a segmentation
            model; for data without masks of it.
        methods: names of the CAM family; None takes Grad-CAM, HiResCAM and LayerCAM. Of a
            question: of attnviz.attention.words; None takes "attention".
        layer: of the maps; None takes the model's default.
        fills: how regions are emptied.
        preprocess, labels, device: as in `attnviz.explain`. Generated scenes need no preprocess.
        batch_size: inputs a forward.
        trained_on: the training data; an image of it in `data` is refused.
        identical: images that are the same pixel by pixel: "refuse" raises before anything is
            run, "skip" leaves all but the first out and counts them.
        allow_empty_groups: audit although one of the four groups has no image.
        min_images, min_clusters: of a group, below which it carries no evidence.
        level: coverage of intervals.
        resamples: of the clustered bootstrap.
        seed: of donors, noise and bootstrap.
        examples: how many images are kept for the report.
        journal: a file that holds what is done, so that the audit can stop and go on.
        resume: go on with that file.
        progress: called with (images done, images).

    Returns:
        `AuditResult`; `.verdict` says what the model reads, `.save(folder)` writes the report.

    Raises:
        DataError: object = context; names that the data or the model does not have; a mask that
            misses; an empty group; an image listed twice, or also in `trained_on`; a journal of
            another audit.
    """
    samples, skipped = distinct(as_samples(data), identical)
    if isinstance(model, Question):
        given = {"layer": layer, "preprocess": preprocess, "labels": labels, "device": device}
        module = loaded = model.about(object, target, given)
        prepare, described, batch_size = as_it_is, "by the model's processor", 1
    else:
        module, loaded = resolve_model(model, device)
        prepare, described = preparation(preprocess, module, loaded, data)

    def reading_of(samples: Sequence[Sample]) -> PictureReader:
        return PictureReader(
            samples, object, context, regions=regions, prepare=prepare, context_masks=context_masks
        )

    reader = reading_of(samples)
    _check_groups(reader, samples, Names(object, context), allow_empty_groups)
    if trained_on is not None:
        refuse_leaks({"train": as_samples(trained_on), "test": samples}, pixels=True)
    instrument = _instrument(
        module, loaded, reader, data, target=target, methods=methods, layer=layer, fills=fills,
        labels=labels, batch_size=batch_size, seed=seed,
    )  # fmt: skip
    settings = {
        **run_versions(),
        "model": _name(module, loaded), "target": instrument.target.label,
        "classes": list(instrument.target.indices), "layer": instrument.layer,
        "methods": list(instrument.methods), "attention": instrument.attention,
        "fills": list(instrument.fills), "regions": reader.regions,
        "annotated": reader.annotated, "masks_from": reader.masks_from,
        "identical_skipped": skipped,
        "context_masks": _function_name(context_masks), "preprocess": described,
        "object": object, "context": context, "images": len(samples),
        "donors": len(instrument.donors) if instrument.donors else 0, "seed": seed,
        "weights": weights_stamp(module), "data": data_stamp(samples),
        **(talk(instrument, reader) if isinstance(instrument, Interview) else {}),
    }  # fmt: skip
    with _kept(journal) as path:
        rows = SharedJournal(path, settings, len(samples), batch_size, resume=resume)
        with _left_only_to_go_on(rows.path):
            _run(instrument, reader, rows, batch_size, progress)
        with reading(path):
            gone = [row["id"] for row in rows.rows() if "gone" in row]
            if gone:
                reader = reading_of(without(samples, gone))
                _check_groups(reader, reader.data, Names(object, context), allow_empty_groups)
            left = (row for row in rows.rows() if "gone" not in row)
            table = AuditTable.read(left, len(reader.data))
    scores = None
    if instrument.donors is not None:
        lent = (instrument.donors.with_context, instrument.donors.without_context)
        scores = [score_inputs(instrument, x)[0] for x in lent]
    limits = Thresholds(min_images, min_clusters, level, resamples, seed)
    names = Names(object, context)

    def illustrate(rows: Sequence[int]) -> list[Example]:
        if weights_stamp(module) != settings["weights"]:
            return []  # trained on since then: it would show what was not audited
        return list(examples_of(instrument, reader, rows, names, strip=False))

    found = summarise(table, names, limits, scores, note=_note(reader, gone))
    settings |= {
        "min_images": min_images, "min_clusters": min_clusters, "level": level,
        "resamples": resamples, "gone": gone, "allow_empty_groups": allow_empty_groups,
    }  # fmt: skip
    return AuditResult(
        model=settings["model"], object=object, context=context, target=instrument.target.label,
        images=len(table), verdict=found.verdict, cells=found.cells, worst=found.worst,
        gap=found.gap, places=found.places, hits=found.hits, effects=found.effects, table=table,
        settings=settings,
        examples=choose_examples(instrument, reader, table, names, examples),
        illustrate=illustrate,
    )  # fmt: skip


def _run(
    instrument: Instrument,
    reader: PictureReader,
    journal: SharedJournal,
    batch_size: int,
    progress: Any,
) -> None:
    for start in range(journal.done, len(journal.mine), batch_size):
        part = journal.mine[start : start + batch_size]
        found = [_picture(reader, i) for i in part]
        for gone, run in groupby(found, key=lambda picture: isinstance(picture, dict)):
            if gone:
                journal.append(cast("list[Row]", list(run)))
                continue
            for alike in by_shape(cast("list[AuditPicture]", list(run))):
                journal.append(instrument.measure(alike))
        if progress is not None:
            progress(part[-1] + 1, len(reader.data))


def _picture(reader: PictureReader, index: int) -> AuditPicture | Row:
    """Return an image, or the row that says that it, or its mask, has gone since the start."""
    try:
        return reader.read(index)
    except MissingFile as error:
        warnings.warn(f"{error}; the audit goes on without it", AttnvizWarning, stacklevel=2)
        return {"id": reader.data[index].id, "gone": str(error)}


def by_shape(batch: Sequence[AuditPicture]) -> Iterator[list[AuditPicture]]:
    """Yield runs of pictures whose inputs have one shape, in order."""
    run: list[AuditPicture] = []
    for picture in batch:
        if run and run[-1].input.shape != picture.input.shape:
            yield run
            run = []
        run.append(picture)
    if run:
        yield run


@contextmanager
def _left_only_to_go_on(journal: Path) -> Iterator[None]:
    """Remove the journal of an audit whose data is refused: mended, it is other data.

    What a full disk or a vanished file stops can go on, and so can what is interrupted.
    """
    try:
        yield
    except AttnvizError as error:
        fault = error.__cause__ or error.__context__
        if getattr(fault, "errno", None) is None:  # the system gives its faults a number
            journal.unlink(missing_ok=True)
        raise


@contextmanager
def _kept(journal: str | Path | None) -> Iterator[Path]:
    if journal is not None:
        yield Path(journal)
        return
    if current().count > 1:
        raise DataError(
            "several processes need journal=..., a file in a folder that all of them see"
        )
    with tempfile.TemporaryDirectory(prefix="attnviz-audit-") as folder:
        yield Path(folder) / "rows.jsonl"


def _instrument(
    module: Any, loaded: Any, reader: PictureReader, data: Any, *, target: Any,
    methods: Sequence[str] | None, layer: Any, fills: Sequence[str],
    labels: Sequence[str] | None, batch_size: int, seed: int,
) -> Instrument:  # fmt: skip
    if batch_size < 1:
        raise DataError(f"batch_size is at least 1, got {batch_size}")
    fills = check_fills(fills)
    if isinstance(module, Asked):
        return interview(module, reader, methods, fills, seed)
    methods = DEFAULT_METHODS if methods is None else methods
    names = tuple(METHODS.get(m).name for m in ([methods] if isinstance(methods, str) else methods))
    if not names:
        raise DataError("methods is empty; give at least one of the CAM family, such as gradcam")
    first = _sightings(reader)
    bare = Audited(module)
    one = first[:1].to(bare.device).clone().requires_grad_()
    with bare.running(), torch.enable_grad():
        logits = logits_of(module(one))  # for the number of classes
    if are_probabilities(logits):
        if is_binary(logits):
            raise DataError(f"an audit compares logits, and {PROBABILITIES}")
        warnings.warn(PROBABILITIES, AttnvizWarning, stacklevel=3)
    logits = logits.detach()
    if logits.ndim == 1:
        logits = logits[:, None]  # one number an image: a single logit
    if logits.ndim != 2:
        raise DataError(f"an audit takes a classifier, got an output of {tuple(logits.shape)}")
    if labels is None:
        labels = labels_of(module, loaded)
    count = class_count(logits)
    if labels is None and hasattr(data, "region") and count == len(data.classes):
        labels = data.classes  # generated scenes: the order of their labels is the order of logits
    aim = find_target(
        target, reader.object, classes=count, labels=labels, single=is_binary(logits)
    )  # fmt: skip
    chosen = default_layer(module, first) if layer is None else layer
    if not isinstance(chosen, str):
        chosen = next((n for n, m in module.named_modules() if m is chosen), chosen)
    made = Instrument(module, aim, names, chosen, False, fills, None, batch_size, seed)
    donors = draw_donors(reader, seed) if reader.regions != "groups" else None
    return Instrument(
        module, aim, names, chosen, has_attention(made, first), fills, donors, batch_size,
        seed,
    )  # fmt: skip


def _sightings(reader: PictureReader) -> torch.Tensor:
    """Return inputs of each group and from all over the data: what a layer is chosen on.

    An image of one group alone may leave a reader of the other things without any evidence.
    """
    first: dict[Any, int] = {}
    for index, sample in enumerate(reader.data):
        first.setdefault(reader.presence(sample), index)
        if len(first) == 4:
            break
    spread = np.linspace(0, len(reader.data) - 1, 6).astype(int).tolist()
    found: list[torch.Tensor] = []
    for index in dict.fromkeys([*first.values(), *spread]):
        try:
            tensor = reader.read(index).input
        except MissingFile:  # said when it is its turn
            continue
        if not found or tensor.shape == found[0].shape:
            found.append(tensor)
    return torch.stack(found)


def _note(reader: PictureReader, gone: Sequence[str]) -> str:
    lost = (
        f"{len(gone)} images could not be read when it was their turn, and are left out"
        if gone
        else ""
    )
    return "; ".join(filter(None, (_annotation_note(reader), lost)))


def _annotation_note(reader: PictureReader) -> str:
    """Return how many images of the object say where it is, if not all do, and by whom."""
    if reader.regions == "groups":
        return ""
    counts = reader.annotated
    found = [
        f"{n} masks are not drawn by people but from {s}" for s, n in reader.masks_from.items()
    ]
    if reader.rest and not any(map(reader.locates_others, reader.data)):
        found.append(
            f"what is on the images without {reader.object} has no masks, and counts as background"
        )
    if counts["none"]:
        known = " and ".join(f"{counts[k]} {k}" for k in ("masks", "boxes") if counts[k])
        found.append(
            f"of {sum(counts.values())} images with {reader.object} {known} say where it is; the "
            f"other {counts['none']} count where no mask is needed"
        )
    return "; ".join(found)


def preparation(preprocess: Any, module: Any, loaded: Any, data: Any) -> tuple[Any, str]:
    """Return how photos become inputs, as a function and in words; generated scenes as they are."""
    try:
        pipeline = resolve_preprocess(preprocess, module, loaded)
    except PreprocessError:
        if preprocess is not None or not hasattr(data, "region"):
            raise
        return unit_range, "generated scenes: RGB in 0 to 1"
    return pipeline, pipeline.describe() if hasattr(pipeline, "describe") else str(pipeline)


def _check_groups(
    reader: PictureReader, samples: Sequence[Sample], names: Names, allow_empty: bool
) -> None:
    counts: Counter[int] = Counter()
    for sample in samples:
        has_object, has_context = reader.presence(sample)
        if has_context is None:
            return  # known only once the masks were looked at
        counts[2 * has_object + has_context] += 1
    empty = [names.group(g) for g in names.groups if not counts[g]]
    if empty and (not allow_empty or len(empty) > 2 or len(names.groups) == 2):
        listed = ", ".join(f"{names.group(g)}: {counts[g]}" for g in names.groups)
        raise DataError(
            f"no image of {' and none of '.join(repr(e) for e in empty)} ({listed}): what the "
            "model does there is not known. Add such images"
            + ("" if len(empty) > 2 or len(names.groups) == 2 else
               ", or audit without them: allow_empty_groups=True (--allow-empty-groups)")
        )  # fmt: skip


def _name(module: Any, loaded: Any) -> str:
    return loaded.name if loaded is not None else type(module).__name__


def _function_name(function: Any) -> str | None:
    return None if function is None else getattr(function, "__name__", type(function).__name__)
