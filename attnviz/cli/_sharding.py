"""Maps of a whole data set from the command line: what `explain --shards` does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from ..data import Sample, open_dataset
from ..errors import DataError
from ..models import read_labels
from ..processes import current
from ..shards import explain_dataset
from ._app import FAILURE, say, tell
from ._console import progress, saying_what_is_kept
from ._options import Subject
from ._photos import gather


def write_shards(
    subject: Subject,
    places: Sequence[str],
    out: Path,
    methods: Sequence[str],
    targets: Sequence[str],
    *,
    labels: str | None,
    force: bool,
    parquet: bool,
    **options: Any,
) -> None:
    """Explain a data set into shards; see `attnviz.shards`."""
    if len(methods) > 1 or len(targets) > 1:
        raise typer.BadParameter("--shards takes one --method and one --target for all images")
    samples = current().once(lambda: samples_at(places, out))
    loaded = subject.load()
    options |= {"method": methods[0], "target": targets[0] if targets else None}
    if labels is not None:
        options["labels"] = read_labels(labels)
    done = 0
    kept = saying_what_is_kept(
        lambda: (
            f"{done} of {len(samples)} images are done, and kept in {str(out)!r}; "
            "the same command goes on"
        )
    )
    with kept, progress("explaining", len(samples)) as bar:

        def step(now: int) -> None:
            nonlocal done
            while done < now:
                done += 1
                bar.step()

        given = {name: value for name, value in options.items() if value is not None}
        index = explain_dataset(
            loaded, samples, out, force=force, parquet=parquet, step=step, **given
        )
    failed = sum('"error"' in line for line in index.open(encoding="utf-8"))
    tell(f"{index}: maps of {len(samples) - failed} images")
    if failed:
        say(f"{failed} of {len(samples)} images failed; the index says why")
        raise typer.Exit(FAILURE)


def samples_at(places: Sequence[str], out: Path) -> Sequence[Sample]:
    """Return a data set's samples; of places in no layout that is known, their photos."""
    if len(places) == 1 and places[0] != "-" and Path(places[0]).exists():
        try:
            return open_dataset(places[0])
        except DataError:
            if not Path(places[0]).is_dir():
                raise
    photos, unreadable = gather(places, leave_out=out)
    if unreadable:
        raise unreadable[0][1]
    return [Sample(str(photo), photo) for photo in photos]
