"""Maps of whole data sets: shards on disk, an index, and a run that goes on where it was stopped.

The folder holds `run.json` (what the maps were made of and how), `maps-00000.safetensors` and so
on (`Heatmaps` of a fixed number of images each, in the data's order), and, once all are there,
`index.jsonl`: a line a map (with `parquet=True` also as a table, `index.parquet`). A shard is whole
or not there, so any stop costs one shard at most.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from . import limits
from .data import Sample
from .data.identity import (
    data_stamp,
    option_stamp,
    refuse_other,
    run_versions,
    weights_stamp,
)
from .errors import DataError, ImageError, optional
from .explaining import explain
from .heatmaps import Heatmaps, joined
from .hooks import is_sharded
from .models import LoadedModel, resolve_model, resolve_preprocess
from .processes import current
from .writing import utf8, write_file

SCHEMA, VERSION = "attnviz.shards", 1

#: images that are decoded and explained at a time, and read ahead meanwhile
_CHUNK = 32
_READERS = 4


def explain_dataset(
    model: Any,
    samples: Sequence[Sample],
    out: str | Path,
    *,
    shard: int = 256,
    force: bool = False,
    parquet: bool = False,
    step: Callable[[int], None] = lambda done: None,
    **options: Any,
) -> Path:
    """Write the maps of a data set as shards with an index; goes on with what is there.

    Memory does not grow with the number of images. An image that cannot be read is noted in the
    index and left out. Several processes (`attnviz.processes.together`) share the shards.

    Args:
        model: as `explain` takes it.
        samples: an `attnviz.data` dataset, or a list of its samples.
        out: the folder.
        shard: images a shard.
        force: begin anew, over what is there.
        parquet: write the index as a Parquet table, too (the extra `parquet`); what the run is
            of, as in `run.json`, stands in its metadata under "attnviz.run".
        step: told after each chunk how many images are done.
        **options: of `explain`: `method` (one), `target` (one for all), `layer`, `preprocess` ...

    Returns:
        The path of the index.

    Raises:
        DataError: the folder belongs to a run over other data, weights or options; several
            methods or layers; nothing can be read; weights sharded among processes.
        EnvironmentFault: `parquet` without pyarrow.
    """
    out = Path(out)
    if parquet:
        optional("pyarrow.parquet", "parquet")  # said now, not when the maps are made
    module, loaded = resolve_model(model, options.pop("device", None))
    if not isinstance(options.get("method", "gradcam"), str) or shard < 1:
        raise DataError("shards hold the maps of one method, and of at least one image each")
    if is_sharded(module):
        raise DataError(
            f"the weights of {type(module).__name__} are sharded (FSDP): its processes have to run "
            "as many batches each, and images are shared out as it comes. Give the whole model to "
            "each process, or call attnviz.explain on batches in step"
        )
    group = current()

    def run() -> dict[str, Any]:
        prepare = resolve_preprocess(options.get("preprocess"), module, loaded)
        return {
            "schema": SCHEMA,
            "version": VERSION,
            **run_versions(),
            "model": loaded.name if loaded is not None else type(module).__name__,
            "weights": weights_stamp(module),
            "data": data_stamp(samples),
            "images": len(samples),
            "shard": shard,
            "preprocess": str(prepare.describe()),
            "options": {n: option_stamp(v, module) for n, v in sorted(options.items())},
        }

    with group.locked(out):
        group.once(lambda: _begin(out, run(), force))
        starts = range(0, len(samples), shard)
        mine = set(group.mine(len(starts)))
        for number, start in enumerate(starts):
            part = samples[start : start + shard]
            if number in mine and not any(path.exists() for path in _paths(out, number)):
                _write_shard(out, number, list(part), loaded or module, options, step, start)
            step(start + len(part))
        group.wait()
        return group.once(lambda: _write_index(out, len(starts), parquet))


def _begin(out: Path, run: dict[str, Any], force: bool) -> None:
    path = out / "run.json"
    if force:
        for old in [path, *out.glob("maps-*"), out / "index.jsonl", out / "index.parquet"]:
            old.unlink(missing_ok=True)
    if path.exists():
        with limits.reading(path):
            refuse_other(limits.read_json(path), run, out)
    else:
        write_file(path, json.dumps(run, indent=1, ensure_ascii=False))


def _paths(out: Path, number: int) -> tuple[Path, Path]:
    """The shard, and what is there in its place where no image of it could be read."""
    name = out / f"maps-{number:05d}.safetensors"
    return name, name.with_suffix(".json")


def _read(sample: Sample) -> np.ndarray | str:
    try:
        return sample.read()
    except (DataError, ImageError) as error:
        return str(error)


def _write_shard(
    out: Path, number: int, samples: list[Sample], model: Any, options: dict[str, Any],
    step: Callable[[int], None], before: int,
) -> None:  # fmt: skip
    made: list[Heatmaps] = []
    names: list[str] = []
    failed: list[list[str]] = []
    for chunk, pixels in _ahead(samples):
        good = [i for i, photo in enumerate(pixels) if not isinstance(photo, str)]
        failed += [[chunk[i].id, p] for i, p in enumerate(pixels) if isinstance(p, str)]
        if good:
            maps: Any = explain(model, [pixels[i] for i in good], **options)
            if not isinstance(maps, Heatmaps):
                raise DataError("shards hold the maps of one layer; leave layer= out, or name one")
            each = len(maps) // len(good)
            files = [str(s.image) if isinstance(s.image, Path) else None for s in chunk]
            made.append(
                replace(
                    maps.detach().to("cpu"),
                    images=None,
                    sources=tuple(files[i] for i in good for _ in range(each)),
                )
            )
            names += [chunk[i].id for i in good for _ in range(each)]
        step(before + len(names) + len(failed))
    path, instead = _paths(out, number)
    if made:
        whole = joined(made)
        whole = replace(whole, meta={**whole.meta, "samples": names, "failed": failed})
        whole.save(path, force=True)
    else:
        write_file(instead, json.dumps({"failed": failed}), force=True)


def _ahead(samples: list[Sample]) -> Iterator[tuple[list[Sample], list[np.ndarray | str]]]:
    """Yield chunks with their pixels; the next one is decoded while the caller works."""
    chunks = [samples[i : i + _CHUNK] for i in range(0, len(samples), _CHUNK)]
    with ThreadPoolExecutor(_READERS, thread_name_prefix="read") as pool:
        reading = [pool.submit(copy_context().run, _read, s) for s in chunks[0]] if chunks else []
        for chunk, after in zip(chunks, [*chunks[1:], []], strict=True):
            pixels = [job.result() for job in reading]
            reading = [pool.submit(copy_context().run, _read, s) for s in after]
            yield chunk, pixels


def _write_index(out: Path, shards: int, parquet: bool) -> Path:
    def lines(path: Path) -> None:
        with path.open("wb") as file:
            for line in _lines(out, shards):
                file.write(utf8(json.dumps(line, ensure_ascii=False) + "\n"))

    index = write_file(out / "index.jsonl", lines, force=True)
    if parquet:
        write_file(out / "index.parquet", lambda path: _as_parquet(index, path), force=True)
    return index


def _as_parquet(index: Path, path: Path) -> None:
    """Write the lines of the index as a table; a target, which may be anything, as JSON."""
    pa, pq = optional("pyarrow", "parquet"), optional("pyarrow.parquet", "parquet")
    kinds = {name: pa.string() for name in ("sample", "file", "shard", "target", "label", "error")}
    kinds |= {"row": pa.int64(), "score": pa.float64(), "probability": pa.float64()}
    kinds |= {"no_evidence": pa.bool_()}
    run = (index.parent / "run.json").read_bytes()
    schema = pa.schema(list(kinds.items()), metadata={"attnviz.run": run})
    with index.open(encoding="utf-8") as file, pq.ParquetWriter(path, schema) as table:
        lines = (json.loads(line) for line in file)
        while some := list(islice(lines, 4096)):
            for line in some:
                if "error" not in line:
                    line["target"] = json.dumps(line["target"], ensure_ascii=False)
            table.write_table(pa.Table.from_pylist(some, schema))


def _lines(out: Path, shards: int) -> Iterator[dict[str, Any]]:
    for number in range(shards):
        path, instead = _paths(out, number)
        if not path.exists():
            for name, error in limits.read_json(instead)["failed"]:
                yield {"sample": name, "error": error}
            continue
        maps = Heatmaps.load(path)
        for row, name in enumerate(maps.meta["samples"]):
            known = maps.probability
            yield {
                "sample": name,
                "file": maps.sources[row] if maps.sources else None,
                "shard": path.name,
                "row": row,
                "target": maps.target[row],
                "label": maps.label[row],
                "score": float(maps.score[row]),
                "probability": None if known is None else float(known[row]),
                "no_evidence": maps.flat[row],
            }
        for name, error in maps.meta["failed"]:
            yield {"sample": name, "error": error}


def verify(
    model: Any,
    out: str | Path,
    *,
    sample: int = 16,
    samples: Sequence[Sample] | None = None,
    **options: Any,
) -> list[dict[str, Any]]:
    """Compute some maps of a finished run again, evenly over the data, and compare.

    Args:
        model: the one that the run was made with.
        out: its folder.
        sample: how many maps.
        samples: the data set, where its images are no files of their own (tar shards, rows of a
            table) or have moved.
        **options: those of the run that JSON does not hold (a `Preprocess`, a `Target`).

    Returns:
        For each map {sample, holds, difference, reason}: `difference` is the largest one in units
        of the map's largest value, and a map holds up to 1e-4 with the same target.

    Raises:
        DataError: no finished run, other weights, or data or options that have to be given again.
    """
    out = Path(out)
    if not (out / "index.jsonl").exists():
        raise DataError(f"{str(out)!r} holds no finished run: no index.jsonl; let it go on first")
    run = limits.read_json(out / "run.json")
    module, loaded = resolve_model(model)
    if weights_stamp(module) != run["weights"]:
        raise DataError(f"the maps in {str(out)!r} were made with other weights of {run['model']}")
    given = {**run["options"], **options}
    given.pop("compile", None)  # the same maps, and a minute for a sample
    missing = [name for name, value in given.items() if isinstance(value, dict)]
    if missing:
        raise DataError(f"give {', '.join(missing)} again, as the run was made with it")
    lines = [json.loads(x) for x in (out / "index.jsonl").read_text("utf-8").splitlines()]
    lines = [line for line in lines if "error" not in line]
    picked = np.unique(np.linspace(0, len(lines) - 1, min(sample, len(lines))).round().astype(int))
    lines = [lines[i] for i in picked]
    images: dict[str, Sample] = {}
    if samples is not None:
        wanted = {line["sample"] for line in lines}
        images = {s.id: s for s in samples if s.id in wanted}
    elif any(line["file"] is None for line in lines):
        what = f"the images of {str(out)!r} are no files of their own; give the data set again"
        raise DataError(f"{what}: samples=", command=f"{what}: --data")
    else:
        images = {line["sample"]: Sample(line["sample"], Path(line["file"])) for line in lines}
    return [_again(loaded or module, out, line, images, given) for line in lines]


def _again(
    model: LoadedModel | nn.Module, out: Path, line: dict[str, Any], images: dict[str, Sample],
    options: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
    found = {"sample": line["sample"], "holds": False, "difference": None, "reason": ""}
    if line["sample"] not in images:
        return {**found, "reason": "the data set has no image of this name"}
    photo = _read(images[line["sample"]])
    if isinstance(photo, str):
        return {**found, "reason": photo}
    then = Heatmaps.load(out / line["shard"])[line["row"]]
    now: Any = explain(model, [photo], **options)
    if then.target[0] not in now.target:
        return {**found, "reason": f"now explains {now.label[0]}, then {then.label[0]}"}
    value = now.values[now.target.index(then.target[0])].cpu()
    if value.shape != then.values[0].shape:
        return {**found, "reason": f"now {tuple(value.shape)}, then {tuple(then.values[0].shape)}"}
    gap = float((value - then.values[0]).abs().max() / then.values[0].abs().max().clamp_min(1e-30))
    return {**found, "holds": gap <= 1e-4, "difference": gap}


__all__ = ["explain_dataset", "verify"]
