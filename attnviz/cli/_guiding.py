"""What `attnviz guide` does between its options and `guidance.fit`."""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import typer
from torch import nn

from .. import limits
from ..data import Dataset, open_dataset, splits
from ..data.identity import examples_stamp, refuse_other, weights_stamp
from ..errors import DataError, OutputExists
from ..guidance import (
    Answers,
    Examples,
    FitResult,
    GuideConfig,
    HeadResult,
    answers,
    findings,
    fit,
    new_head,
    retrain_head,
    save_weights,
)
from ..models import LoadedModel, Preprocess, resolve_preprocess
from ..writing import write_file
from ._app import say
from ._options import Subject, named_values
from ._segmenting import segmented


@dataclass(frozen=True)
class GuideResult:
    """What a run gave.

    Attributes:
        fit: of the guided training; None where only the head was retrained.
        before, after: the answers on validation.
        compared: what `before` is of.
        said: what changed, in words.
        notes: what was settled.
        head: how the head was retrained, None if it was not.
    """

    fit: FitResult | None
    before: Answers
    after: Answers
    compared: str
    said: tuple[str, ...]
    notes: tuple[str, ...]
    head: HeadResult | None
    folder: Path

    def as_dict(self) -> dict[str, Any]:
        """Return everything but the history's maps as JSON values."""
        done = self.fit
        return {
            "best_epoch": done.best_epoch if done else 0,
            "stopped": done.stopped if done else "head",
            "history": [dict(r) for r in done.history] if done else [],
            "events": list(done.events) if done else [],
            "before": self.before.as_dict(), "after": self.after.as_dict(),
            "compared": self.compared, "findings": list(self.said), "notes": list(self.notes),
            "head": None if self.head is None else self.head.as_dict(),
        }  # fmt: skip


@dataclass(frozen=True)
class GuideRun:
    """A model and its examples, ready to train; `words` of the command line name the model."""

    words: str
    loaded: LoadedModel
    prepare: Any
    train: Examples
    validation: Examples
    loss: str
    fresh: bool
    notes: tuple[str, ...] = ()

    def fit(
        self, *, out: Path, photos: int, baseline: bool, head: tuple[Path, str | None] | None,
        resume: bool, force: bool, **settings: Any,
    ) -> GuideResult:  # fmt: skip
        """Measure, train, retrain the head if asked, measure again; progress goes to stderr."""
        from ._progress import progress_of

        module = self.loaded.module
        config = GuideConfig(**{**settings, "epochs": settings["epochs"] or None})
        if (out / "run.json").exists() and not (resume or force):
            raise OutputExists(
                f"{str(out)!r} holds a run already; resume it (--resume), or start over (--force)"
            )
        identity = self.identity()
        before, compared = self._before(config, out, identity, baseline=baseline, resume=resume)
        trained, done, notes = module, None, self.notes
        if settings["epochs"] != 0:
            # photos with the object first: their maps are what training is to change
            order = sorted(range(len(self.validation)), key=lambda i: -self.validation.labels[i])
            chosen = order[:photos]
            with progress_of() as progress:
                done = fit(
                    module, self.train, validation=self.validation, config=config, out=out,
                    resume=resume, force=force,
                    photos=[self.validation.samples[i].read() for i in chosen] or None,
                    photo_targets=[self.validation.labels[i] for i in chosen] or None,
                    preprocess=self.prepare, labels=self.train.classes, progress=progress,
                    identity=identity,
                )  # fmt: skip
            trained, notes, config = done.model, notes + done.notes, done.config
        retrained = None
        if head is not None:
            retrained = self._head(trained, config, out, *head)
        after = answers(trained, self.validation, config=_whole(config))
        said = findings(before, after)
        if retrained is not None:
            said += _unread(retrained, len(self.train.classes))
        result = GuideResult(done, before, after, compared, tuple(said), notes, retrained, out)
        write_file(out / "labels.txt", "\n".join(self.train.classes) + "\n", force=True)
        if isinstance(self.prepare, Preprocess):
            text = json.dumps(asdict(self.prepare), indent=2) + "\n"
            write_file(out / "preprocess.json", text, force=True)
        text = json.dumps(result.as_dict(), indent=2) + "\n"
        write_file(out / "answers.json", text, force=True)
        return result

    def identity(self) -> dict[str, str]:
        """What the run depends on beside its settings; the model is not trained yet."""
        known = {
            "weights": weights_stamp(self.loaded.module),
            "data": examples_stamp(self.train), "validation": examples_stamp(self.validation),
        }  # fmt: skip
        if isinstance(self.prepare, Preprocess):
            known["preprocess"] = repr(self.prepare)
        return known

    def _before(
        self,
        config: GuideConfig,
        out: Path,
        identity: dict[str, str],
        *,
        baseline: bool,
        resume: bool,
    ) -> tuple[Answers, str]:
        """The answers to compare with: of the model as given, or trained on labels alone."""
        stored = out / "before.json"
        if resume and stored.exists():
            kept = limits.read_json(stored)
            with limits.reading(stored):
                refuse_other(kept.get("identity", identity), identity, out)
                return Answers.from_dict(kept["answers"]), str(kept["compared"])
        model, compared = self.loaded.module, "the model as it was given"
        plain = config
        if self.fresh and baseline:
            say("first the new classifier is trained on labels alone, to compare with")
            plain = replace(
                config, loss="none", loss_options={}, exchange=False, exchange_options={},
                erasing=None, erasing_options={}, pooling=None, pooling_options={},
            )  # fmt: skip
            model = copy.deepcopy(model)
            done = fit(model, self.train, validation=self.validation, config=plain)
            plain, compared = done.config, "labels alone, the same steps"
        elif self.fresh:
            compared = "a new classifier, untrained"
        found = answers(
            model, self.validation, config=replace(config, layer=plain.layer), classes=None
        )
        out.mkdir(parents=True, exist_ok=True)
        kept = {"compared": compared, "answers": found.as_dict(), "identity": identity}
        write_file(stored, json.dumps(kept, indent=2) + "\n", force=True)
        return found, compared

    def _head(
        self, model: nn.Module, config: GuideConfig, out: Path, data: Path, context: str | None
    ) -> HeadResult:
        dataset = open_dataset(data)
        own = [n for n in self.train.classes if n != "other" or not self.train.absent]
        examples = Examples(
            dataset, self.prepare, classes=None if self.train.absent else self.train.classes,
            object=own[0] if self.train.absent else None, masks=0.0, boxes=0.0,
        )  # fmt: skip
        groups = [2 * y for y in examples.labels]
        if context is not None:
            dataset.class_index(context)
            groups = [
                g + (context in s.labels) for g, s in zip(groups, examples.samples, strict=True)
            ]
            _refuse_one_sided(groups, examples.classes, context, data)
        else:
            say(
                "groups of the --balanced data: its classes alone, as if no context told them "
                "apart; name one with --context where it is labelled"
            )
        result = retrain_head(model, examples, groups=groups, seed=config.seed)
        save_weights(out, model, note=f"head retrained on {data.name}")
        return result


def _refuse_one_sided(
    groups: Sequence[int], classes: Sequence[str], context: str, data: Path
) -> None:
    """Refuse data in which a class always comes with the context, or never."""
    for k, name in enumerate(classes):
        for there, word in ((1, "with"), (0, "without")):
            if 2 * k + there not in groups:
                raise DataError(
                    f"--balanced {data}: no image of {name!r} {word} {context!r}, so the context "
                    "still tells the class; add such images, or name another --context"
                )


def _unread(head: HeadResult, classes: int) -> list[str]:
    """Say that a retrained head guesses: then no linear layer finds the object."""
    if head.worst > 1 / classes:
        return []
    return [
        f"the retrained head is right on {head.worst:.0%} of its worst group, no better than "
        "guessing: these features do not tell the classes apart without the context. Give more "
        "--balanced images, or train more of the network (masks, --train all)"
    ]


def _whole(config: GuideConfig) -> GuideConfig:
    return replace(config, batch_size=max(config.batch_size, 16))


def prepare(
    *,
    data: Path,
    subject: Subject,
    object: str | None,
    masks: Path | None,
    masks_from: str | None,
    fraction: float,
    boxes: bool,
    mixed: bool,
    loss: str,
    validation: float,
    flip: bool,
    seed: int,
) -> GuideRun:
    """Read the data, divide it, load the model and give it as many outputs as there are classes."""
    if boxes and mixed:
        raise typer.BadParameter("--boxes and --mixed exclude each other")
    dataset = open_dataset(data, masks=masks)
    named = {s.label for s in dataset if s.label is not None}
    if masks_from is not None:
        wanted = [object] if object is not None else [c for c in dataset.classes if c in named]
        dataset = segmented(dataset, masks_from, wanted, subject.device)
    train, held = _divide(dataset, validation, seed, object)
    loaded = subject.load()
    pipeline = resolve_preprocess(None, loaded.module, loaded)
    shares = {
        "masks": 0.0 if boxes else fraction,
        "boxes": 1.0 if boxes or mixed else 0.0,
    }
    classes = None
    if object is None:
        classes = [c for c in dataset.classes if c in named]
    stated = subject.states_preprocessing
    pipeline, notes = (pipeline, ()) if stated else _uncut(pipeline, train, object)
    examples = Examples(
        train, pipeline, classes=classes, object=object, flip=flip, seed=seed, **shares
    )
    others = Examples(held, pipeline, classes=classes, object=object, seed=seed)
    if mixed and loss == "energy":
        loss = "mixed"
    fresh = _fit_head(loaded, len(examples.classes))
    counts = examples.counts()
    say(
        f"{len(examples)} images to train on ({counts['masks']} with masks, {counts['boxes']} with "
        f"boxes), {len(others)} for validation, classes: "
        + ", ".join(f"{n} ({examples.labels.count(k)})" for k, n in enumerate(examples.classes[:8]))
    )
    made = Counter(s.mask_source(n) for s in dataset for n in s.labels)
    notes += tuple(
        f"{count} masks are not drawn by people but from {name}"
        for name, count in made.items()
        if name
    )
    for note in notes:
        say(note)
    stored = isinstance(pipeline, Preprocess)  # written beside the weights
    words = subject.words(preprocessing=not stored)
    return GuideRun(words, loaded, pipeline, examples, others, loss, fresh, notes)


def split_options(given: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return NAME=VALUE words as options of the loss, and of what stands before a dot."""
    found: dict[str, dict[str, Any]] = {}
    for name, value in named_values(given, "form=relu").items():
        kind, dot, own = name.partition(".")
        if dot and kind not in ("erasing", "pooling", "exchange"):
            raise typer.BadParameter(
                f"--set {name}: before the dot stands erasing, pooling or exchange, not {kind!r}"
            )
        found.setdefault(f"{kind if dot else 'loss'}_options", {})[own if dot else name] = value
    return found


def layer_names(given: str | None) -> str | list[str] | None:
    """Return one name as text, several (with commas between) as a list."""
    names = [name.strip() for name in (given or "").split(",") if name.strip()]
    return names if len(names) > 1 else names[0] if names else None


def _divide(
    dataset: Dataset, share: float, seed: int, object: str | None
) -> tuple[Dataset, Dataset]:
    named = {s.split for s in dataset}
    rest = dataset.filter(lambda s: s.split != "test")
    if len(rest) < len(dataset):
        say(f"{len(dataset) - len(rest)} images of the split test are left alone")
    if "validation" in named:
        return (
            rest.filter(lambda s: s.split != "validation"),
            rest.filter(lambda s: s.split == "validation"),
        )
    if not 0 < share < 1:
        raise DataError(f"--validation {share}: expected a share between 0 and 1")
    by = (lambda s: object in s.labels) if object is not None else (lambda s: s.label)
    parts = splits(
        rest, {"train": 1 - share, "validation": share}, seed=seed, stratify=by,
        duplicates="together",
    )  # fmt: skip
    return parts["train"], parts["validation"]


def _fit_head(loaded: LoadedModel, classes: int) -> bool:
    """A model with another number of outputs gets a fresh head; one that fits keeps its own."""
    from torch import nn

    linear = [m for m in loaded.module.modules() if isinstance(m, nn.Linear)]
    if not linear or linear[-1].out_features != classes:
        new_head(loaded.module, classes)
        say(f"{loaded.name} gets a new classifier with {classes} outputs")
        return True
    return False


#: share of an object's area that a crop may take
MOST_CUT = 0.1


def _uncut(pipeline: Any, train: Dataset, object: str | None) -> tuple[Any, tuple[str, ...]]:
    """Leave the centre crop out where it would cut annotated objects: photos are squeezed then."""
    crops = isinstance(pipeline, Preprocess) and pipeline.crop is not None and pipeline.resize
    if not crops:
        return pipeline, ()
    cut = seen = 0
    for sample in train:
        name = object if object is not None and object in sample.labels else sample.label
        if name is None or not sample.has_mask(name):
            continue
        mask = sample.mask(name)
        x0, y0, x1, y1 = pipeline.geometry(*mask.shape).crop
        rows = slice(max(round(y0), 0), max(round(y1), 0))
        inside = mask[rows, max(round(x0), 0) : max(round(x1), 0)].sum()
        seen += 1
        cut += bool(mask.any()) and inside < (1 - MOST_CUT) * mask.sum()
    if not cut:
        return pipeline, ()
    whole = replace(
        pipeline, resize=pipeline.crop, crop=None, fit="squash", name=f"{pipeline.name}, squeezed"
    )
    return whole, (
        f"the centre crop would cut {cut} of {seen} annotated objects: photos are squeezed to the "
        "input instead (preprocess.json)",
    )
