"""Explain many photos and write the pictures: what `attnviz explain` and `demo` share."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import typer
from torch import Tensor

from ..batching import MOST
from ..data.prepared import Prepared
from ..errors import AttnvizError, ImageError, MethodError, TargetError
from ..explaining import explain, output_for
from ..geometry import Geometry, size_of
from ..heatmaps import Heatmaps, pictures
from ..images import asked
from ..methods import METHODS, check_options
from ..models import LoadedModel, labels_of, read_labels, resolve_preprocess
from ..models.activation import stated_activation
from ..models.outputs import predicted as predicted_class
from ..models.outputs import probabilities, reading
from ..render.colour import table
from ..render.scaling import check_mode
from ..report.viewer import Note, longest_side, reduced, write_viewer
from ..targets import Contrast, Setting, parse, prompted
from ..targets import ready as placed
from ._files import VECTOR_FORMATS, file_bytes, write_file
from ._pipeline import Failed, stream

#: threads that read, and as many that write: each may hold one photo of any size
READERS = min(4, os.cpu_count() or 1)


@dataclass(frozen=True)
class PhotoFiles:
    """A photo, and the files that its pictures go to: for each method, for each target."""

    photo: Path
    pictures: tuple[Path, ...]

    def older_than(self, *sources: str | Path | None) -> bool:
        """Return whether a picture is older than its photo, or than another file it depends on."""
        times = [p.stat().st_mtime_ns for p in map(Path, filter(None, (self.photo, *sources)))
                 if os.path.isfile(p)]  # fmt: skip
        return min(p.stat().st_mtime_ns for p in self.pictures) < max(times, default=0)


@dataclass(frozen=True)
class DrawOptions:
    """How pictures are drawn: as `Heatmaps.overlay` and `Heatmaps.panel` take it."""

    panel: bool = False
    colormap: str | None = None
    alpha: float | None = None
    scale: str | None = None

    def check(self) -> None:
        """Raise a usage error for a colour map or scale that does not exist."""
        for option, name, known in (
            ("--colormap", self.colormap, table), ("--scale", self.scale, check_mode),
        ):  # fmt: skip
            try:
                if name is not None:
                    known(name)
            except AttnvizError as error:
                raise typer.BadParameter(f"{option}: {error}") from error

    def options(self) -> dict[str, Any]:
        """Return what the methods of `Heatmaps` are called with."""
        given = {"colormap": self.colormap, "alpha": self.alpha, "mode": self.scale}
        return {name: value for name, value in given.items() if value is not None}

    def draw(self, maps: Heatmaps, suffix: str) -> Any:
        """Return the picture, or for .pdf and .svg the figure, of a single map."""
        if suffix.lstrip(".") in VECTOR_FORMATS and self.panel:
            return maps.figure(0, **self.options())
        if suffix.lstrip(".") in VECTOR_FORMATS:
            return maps.figure(None, originals=False, **self.options())
        return maps.panel(0, **self.options()) if self.panel else maps.overlay(0, **self.options())


@dataclass(frozen=True)
class Record:
    """What was found out about one photo, by one method, for one target."""

    photo: Path
    picture: Path
    method: str
    layer: str
    target: Any
    label: str
    score: float
    units: str
    map_size: tuple[int, int]
    flat: bool
    batch_size: int
    geometry: Geometry
    predicted: dict[str, Any] | None
    maps: Heatmaps | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {
            "photo": str(self.photo),
            "picture": str(self.picture.absolute()),
            "method": self.method,
            "layer": self.layer,
            "target": {"class": self.target, "label": self.label, "score": self.score},
            "predicted": self.predicted,
            "units": self.units,
            "map_size": list(self.map_size),
            "no_evidence": self.flat,
            "batch_size": self.batch_size,
            **self.geometry.as_dict(),
        }

    def line(self) -> str:
        """Return one line for a reader: photo, what was explained, and where the picture is."""
        what = f"{self.label} {self.score:.4g}"
        seen = self.predicted
        if seen is not None and seen["index"] == self.target and seen["probability"] is not None:
            what = f"{self.label} {seen['probability']:.1%}"
        flat = ", no evidence (the map is flat)" if self.flat else ""
        at = f" at {self.layer}" if self.layer else ""
        return f"{self.photo}: {what}, {self.method}{at}{flat} -> {self.picture}"


#: a single map, and what the model sees on its photo
Seen = tuple[Heatmaps, "dict[str, Any] | None"]


def methods_named(names: Sequence[str]) -> list[str]:
    """Return the canonical names of methods, each once; an unknown one is a usage error."""
    words = [word.strip() for name in names for word in name.split(",")]
    try:
        return list(dict.fromkeys(METHODS.get(word).name for word in words))
    except MethodError as error:
        raise typer.BadParameter(f"{error} (`attnviz methods` describes them)") from error


def method_options(methods: Sequence[str], given: dict[str, Any]) -> dict[str, Any]:
    """Return the options of `--set`; one that none of the methods takes is a usage error."""
    try:
        check_options(given, [METHODS.get(name) for name in methods])
    except MethodError as error:
        raise typer.BadParameter(f"--set: {error.command or error}") from error
    return given


def targets_named(targets: Sequence[str], versus: str | None) -> list[Any]:
    """Return what to explain; with `versus` each target is held against that class."""
    if versus is None:
        return [t if ":" not in t else _parsed(t) for t in targets]
    if not targets:
        raise typer.BadParameter("--versus compares with a class: say --target too")
    return [Contrast(t, versus) for t in targets]


def _parsed(text: str) -> Any:
    try:
        return parse(text)
    except TargetError as error:
        raise typer.BadParameter(str(error)) from error


def explain_photos(
    loaded: LoadedModel,
    jobs: Sequence[PhotoFiles],
    *,
    methods: Sequence[str],
    targets: Sequence[Any] = (),
    layer: str | None = None,
    preprocess: str | None = None,
    labels: str | None = None,
    options: Mapping[str, Any] | None = None,
    look: DrawOptions = DrawOptions(),
    batch_size: int | None = None,
    force: bool = False,
    keep: bool = False,
) -> Iterator[tuple[Record, ...] | Failed[PhotoFiles]]:
    """Yield the records of every photo in order, its pictures written; or why it failed.

    With `keep` the records hold the maps, with photos as small as a page shows them.
    """
    loaded = prompted(loaded.module, loaded, targets) or loaded
    prepare = resolve_preprocess(preprocess, loaded.module, loaded)
    names = read_labels(labels) if labels else labels_of(loaded.module, loaded)

    def compute(jobs: list[PhotoFiles], ready: list[Prepared]) -> list[list[Seen]]:
        return explain_batch(
            loaded, ready, methods=methods, targets=targets, layer=layer, labels=names,
            preprocess=preprocess, batch_size=batch_size, options=options,
        )  # fmt: skip

    def write(job: PhotoFiles, made: list[Seen]) -> tuple[Record, ...]:
        for path, (maps, _) in zip(job.pictures, made, strict=True):
            picture = look.draw(maps, path.suffix)
            write_file(path, file_bytes(picture, path.suffix), force=force)
        records = [
            _record(job.photo, path, *seen) for path, seen in zip(job.pictures, made, strict=True)
        ]
        photo = made[0][0].images[0] if keep and made[0][0].images else None
        if photo is not None:
            small = (reduced(photo, longest_side(len(jobs))),)
            records = [
                replace(record, maps=replace(maps, images=small))
                for record, (maps, _) in zip(records, made, strict=True)
            ]
        return tuple(records)

    return stream(
        jobs, read=lambda job: Prepared.read(job.photo, prepare), compute=compute, write=write,
        size=lambda r: r.bytes, skip=(ImageError,), batch_size=batch_size or MOST, workers=READERS,
    )  # fmt: skip


def explain_batch(
    loaded: LoadedModel,
    ready: Sequence[Prepared],
    *,
    methods: Sequence[str],
    targets: Sequence[Any] = (),
    layer: str | None = None,
    labels: Sequence[str] | None = None,
    preprocess: Any = None,
    batch_size: int | None = None,
    options: Mapping[str, Any] | None = None,
) -> list[list[Seen]]:
    """Return for each photo its maps, method by method and in them target by target."""
    made: list[list[Seen]] = [[] for _ in ready]
    # one batch, unless the preprocessing gives inputs of several shapes
    for shape in dict.fromkeys(r.input.shape for r in ready):
        rows = [i for i, r in enumerate(ready) if r.input.shape == shape]
        inputs = _place(torch.stack([ready[i].input for i in rows]), loaded.module)
        setting = Setting(
            len(rows), size_of(inputs), [ready[i].geometry for i in rows],
            partial(output_for, loaded.module, loaded, preprocess),
        )  # fmt: skip
        chosen = placed(list(targets), setting)
        maps = explain(
            loaded, inputs, method=list(methods), layer=layer, labels=labels,
            target=chosen[0] if len(chosen) == 1 else None,
            classes=chosen if len(chosen) > 1 else None,
            batch_size=batch_size, **(options or {}),
        )  # fmt: skip
        each = max(len(targets), 1)
        said = {"preprocess": described(loaded, preprocess), **asked().facts()}
        maps = {name: replace(m, meta={**m.meta, **said}) for name, m in maps.items()}
        first = next(iter(maps.values()))
        with reading(activation=stated_activation(loaded.module)):
            predicted = _predicted(first, each, labels)
        for some in [m.to("cpu") for m in maps.values()]:
            for n, i in enumerate(rows):
                made[i] += [
                    (ready[i].attach(some[n * each + k]), predicted[n]) for k in range(each)
                ]
    return made


def described(loaded: LoadedModel, preprocess: Any = None) -> str:
    """Return in words how photos become the model's input."""
    return resolve_preprocess(preprocess, loaded.module, loaded).describe()


def _place(batch: Tensor, module: torch.nn.Module) -> Tensor:
    for parameter in module.parameters():
        if parameter.is_floating_point():
            return batch.to(parameter.device, parameter.dtype)
    return batch


def _predicted(
    maps: Heatmaps, each: int, labels: Sequence[str] | None
) -> list[dict[str, Any] | None]:
    """Return what the model sees on each photo, of which there are `each` maps side by side."""
    if maps.logits is None:  # no classifier
        return [None] * (len(maps) // each)
    logits = maps.logits[::each]
    found, best = probabilities(logits), predicted_class(logits).tolist()
    return [
        {
            "index": i,
            "label": labels[i] if labels else f"class {i}",
            "probability": None if found is None else float(found[n, i]),
        }
        for n, i in enumerate(best)
    ]


def _record(photo: Path, path: Path, maps: Heatmaps, predicted: Any) -> Record:
    assert maps.geometry is not None  # `attach` has put it there
    return Record(
        photo=photo,
        picture=path,
        method=maps.method,
        layer=maps.layer,
        target=maps.target[0],
        label=maps.label[0],
        score=float(maps.score[0]),
        units=maps.units,
        map_size=(maps.values.shape[1], maps.values.shape[2]),
        flat=maps.flat[0],
        batch_size=maps.meta["batch_size"],
        geometry=maps.geometry[0],
        predicted=predicted,
    )


def grid_picture(outcomes: Sequence[Sequence[Record]], look: DrawOptions, suffix: str) -> Any:
    """Return the maps of all photos in one picture: a row a photo, or a column a method."""
    by_method: dict[str, list[Heatmaps]] = {}
    for records in outcomes:
        for record in records:
            assert record.maps is not None  # they were kept
            by_method.setdefault(record.method, []).append(record.maps)
    results = {method: pictures.joined(parts) for method, parts in by_method.items()}
    shown = next(iter(results.values())) if len(results) == 1 else results
    # photos have scores of different size: only methods of one photo are on one scale
    options = {"shared": False, **look.options()}
    draw = pictures.grid_figure if suffix.lstrip(".") in VECTOR_FORMATS else pictures.grid
    return draw(shown, **options)


def write_page(path: Path, outcomes: Sequence[Sequence[Record]], *, model: str, force: bool) -> str:
    """Write the maps of all photos as one page; returns what it holds in words."""
    seen = [records[0].predicted for records in outcomes]
    notes = [Note(groups=[f"seen as {s['label']}"] if s is not None else []) for s in seen]
    results = [{n: record.maps for n, record in enumerate(records)} for records in outcomes]
    write_viewer(results, path, title=f"What {model} looks at", notes=notes, force=force)
    return f"{path}: page of {len(results)} photo{'s' * (len(results) > 1)}"
