"""The report of `attnviz guide`: what the network answered before, and what after."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from ._app import tell
from ._console import print_table

if TYPE_CHECKING:
    from ..guidance import Answers
    from ..statistics.intervals import Interval
    from ._guiding import GuideResult, GuideRun

_TEXTS = {
    "as they are": "as they are", "exchanged": "objects exchanged",
    "pasted back": "pasted back (control)", "alone": "context removed",
}  # fmt: skip


def share(found: Interval | None) -> str:
    """Return a share with its interval in percent."""
    if found is None:
        return ""
    return f"{100 * found.value:.1f} % ({100 * found.low:.0f} to {100 * found.high:.0f})"


def rows_of(before: Answers, after: Answers) -> list[list[str]]:
    """Return the table's rows: validation images, class, before, after, how many."""
    rows = []
    for kind, text in _TEXTS.items():
        for name, now in after.right.get(kind, {}).items():
            then = before.right.get(kind, {}).get(name)
            rows.append([text, name, share(then), share(now), str(now.images)])
    count = str(after.accuracy.images)
    rows.append(["as they are", "all", share(before.accuracy), share(after.accuracy), count])
    if after.over_chance is not None:
        cells = ["energy on the object", "x chance"]
        for one in (before, after):
            known = one.over_chance is not None
            cells.append(f"{one.over_chance:.1f} ({100 * one.energy:.0f} %)" if known else "0.0")
        rows.append([*cells, str(after.annotated)])
    return rows


def report(run: GuideRun, result: GuideResult) -> None:
    """Print what came out, and where it is."""
    if result.fit is not None:
        done = result.fit
        tell(f"best epoch   {done.best_epoch} of {len(done.history)} ({done.stopped})")
    if result.head is not None:
        tell(f"head         {result.head}")
    tell(f"before       {result.compared}")
    for note in run.notes:
        tell(f"note         {note}")
    print_table(
        ["validation", "right", "before", "after", "n"], rows_of(result.before, result.after)
    )
    tell(f"chance       {100 * result.after.always:.1f} % by always naming the commonest class")
    for sentence in result.said:
        tell(f"finding      {sentence}")
    for event in () if result.fit is None else result.fit.events:
        tell(f"guard        {event}")
    tell(f"weights      {result.folder / 'model.safetensors'}")
    if (result.folder / "maps").is_dir():
        tell(f"maps         {result.folder / 'maps'}")
    files = {"checkpoint": "model.safetensors", "labels": "labels.txt"}
    if (result.folder / "preprocess.json").exists():
        files["preprocess"] = "preprocess.json"
    words = [f"--{option} {shlex.quote(str(result.folder / n))}" for option, n in files.items()]
    config = None if result.fit is None else result.fit.config
    if config is not None and (config.pooling or config.erasing == "acol"):
        what = f"pooling {config.pooling}" if config.pooling else "erasing acol"
        tell(f"use it       in Python, since {what} makes a model of its own: "
              f"guidance.restored(model, {str(result.folder)!r})")  # fmt: skip
        return
    if config is not None and config.method != "gradcam":
        words.append(f"--method {config.method}")
    command = " ".join(filter(None, ["attnviz explain PHOTO", run.words, *words]))
    tell(f"use it       {command}")
