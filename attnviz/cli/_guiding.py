"""What `attnviz guide` does between its options and `guidance.fit`."""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from ..data import Dataset, open_dataset, splits
from ..errors import DataError
from ..guidance import Examples, FitResult, fit, new_head
from ..models import LoadedModel, resolve_preprocess
from ..writing import write_file
from ._app import say
from ._models import load_model


@dataclass(frozen=True)
class GuideRun:
    """A model and its examples, ready to train; `words` of the command line name the model."""

    words: tuple[str, ...]
    loaded: LoadedModel
    prepare: Any
    train: Examples
    validation: Examples
    loss: str

    def fit(self, *, out: Path, photos: int, **settings: Any) -> FitResult:
        """Train, with a bar on stderr."""
        # photos with the object first: their maps are what training is to change
        order = sorted(range(len(self.validation)), key=lambda i: -self.validation.labels[i])
        chosen = order[:photos]
        with _progress(settings["epochs"]) as progress:
            result = fit(
                self.loaded.module, self.train, validation=self.validation, out=out,
                photos=[self.validation.samples[i].read() for i in chosen] or None,
                photo_targets=[self.validation.labels[i] for i in chosen] or None,
                preprocess=self.prepare, labels=self.train.classes, progress=progress, **settings,
            )  # fmt: skip
        write_file(out / "labels.txt", "\n".join(self.train.classes) + "\n", force=True)
        return result


def prepare(
    *,
    data: Path,
    model: str | None,
    checkpoint: Path | None,
    object: str | None,
    masks: Path | None,
    fraction: float,
    boxes: bool,
    mixed: bool,
    loss: str,
    validation: float,
    flip: bool,
    preprocess: str | None,
    seed: int,
    device: str | None,
) -> GuideRun:
    """Read the data, divide it, load the model and give it as many outputs as there are classes."""
    if boxes and mixed:
        raise typer.BadParameter("--boxes and --mixed exclude each other")
    named = {"model": model, "preprocess": preprocess}
    dataset = open_dataset(data, masks=masks)
    train, held = _divide(dataset, validation, seed, object)
    loaded = load_model(model, checkpoint, device)
    pipeline = resolve_preprocess(preprocess, loaded.module, loaded)
    shares = {
        "masks": 0.0 if boxes else fraction,
        "boxes": 1.0 if boxes or mixed else 0.0,
    }
    classes = None
    if object is None:
        known = {s.label for s in dataset if s.label is not None}
        classes = [c for c in dataset.classes if c in known]
    examples = Examples(
        train, pipeline, classes=classes, object=object, flip=flip, seed=seed, **shares
    )
    others = Examples(held, pipeline, classes=classes, object=object, seed=seed)
    if mixed and loss == "energy":
        loss = "mixed"
    _fit_head(loaded, len(examples.classes))
    counts = examples.counts()
    say(
        f"{len(examples)} images to train on ({counts['masks']} with masks, {counts['boxes']} with "
        f"boxes), {len(others)} for validation, classes: {', '.join(examples.classes[:8])}"
    )
    words = [f"--{n} {shlex.quote(v)}" for n, v in named.items() if v is not None]
    return GuideRun(tuple(words), loaded, pipeline, examples, others, loss)


def loss_options(given: Sequence[str]) -> dict[str, Any]:
    """Return NAME=VALUE words as options; values are JSON, or else text."""
    found: dict[str, Any] = {}
    for word in given:
        name, equals, text = word.partition("=")
        if not name or not equals:
            raise typer.BadParameter(f"--set {word!r}: expected NAME=VALUE, such as form=relu")
        try:
            found[name] = json.loads(text)
        except ValueError:
            found[name] = text
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


def _fit_head(loaded: LoadedModel, classes: int) -> None:
    """A model with another number of outputs gets a fresh head; one that fits keeps its own."""
    from torch import nn

    linear = [m for m in loaded.module.modules() if isinstance(m, nn.Linear)]
    if not linear or linear[-1].out_features != classes:
        new_head(loaded.module, classes)
        say(f"{loaded.name} gets a new classifier with {classes} outputs")


@contextlib.contextmanager
def _progress(epochs: int) -> Iterator[Callable[[str, Mapping[str, Any]], None]]:
    """A bar with the loss's parts on a terminal; one line an epoch either way, on stderr."""

    def line(record: Mapping[str, Any]) -> str:
        parts = [f"epoch {record['epoch']}/{epochs}"]
        for name in ("loss", "classification", "mass", "strength"):
            if name in record:
                parts.append(f"{name} {record[name]:.3g}")
        parts += [f"{n[9:]} {v:.3g}" for n, v in record.items() if n.startswith("guidance/")]
        parts += [f"{n} {v:.3g}" for n, v in record.items() if n.startswith("val_")]
        return "  ".join(parts)

    if not sys.stderr.isatty():

        def plain(kind: str, record: Mapping[str, Any]) -> None:
            if kind == "epoch":
                say(line(record))

        yield plain
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("epoch {task.fields[epoch]}"), BarColumn(), MofNCompleteColumn(),
        TimeRemainingColumn(), TextColumn("{task.fields[parts]}"),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("guide", total=None, epoch=1, parts="")

        def shown(kind: str, record: Mapping[str, Any]) -> None:
            if kind == "epoch":
                bar.console.print(line(record))
                bar.reset(task, epoch=record["epoch"] + 1, parts="")  # it drops what is not given
                return
            steps = record["steps"]
            parts = "  ".join(
                f"{n.removeprefix('guidance/')} {v:.3g}"
                for n, v in record.items()
                if n in ("loss", "mass") or n.startswith("guidance/")
            )
            bar.update(
                task, total=steps, completed=record["step"], epoch=record["epoch"], parts=parts
            )

        yield shown


def report(run: GuideRun, result: FitResult) -> None:
    """Print what came out, and where it is."""
    record = result.history[result.best_epoch - 1]
    print(f"best epoch   {result.best_epoch} of {len(result.history)} ({result.stopped})")
    for name, text in (
        ("val_accuracy", "accuracy"), ("val_worst_class", "worst class"),
        ("val_energy", "evidence on the object"),
    ):  # fmt: skip
        if name in record:
            print(f"validation   {text} {record[name]:.1%}")
    for event in result.events:
        print(f"guard        {event}")
    print(f"weights      {result.folder / 'model.safetensors'}")
    if (result.folder / "maps").is_dir():
        print(f"maps         {result.folder / 'maps'}")
    files = {"checkpoint": "model.safetensors", "labels": "labels.txt"}
    words = [f"--{option} {shlex.quote(str(result.folder / n))}" for option, n in files.items()]
    print(f"use it       attnviz explain PHOTO {' '.join([*run.words, *words])}")
