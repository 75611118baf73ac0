"""How far a guided training is: a bar on a terminal, one line an epoch either way, on stderr."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ..writing import printable
from ._app import say


@contextlib.contextmanager
def progress_of() -> Iterator[Callable[[str, Mapping[str, Any]], None]]:
    """A bar with the loss's parts on a terminal; one line an epoch either way, on stderr."""

    total: dict[str, Any] = {"epochs": "?"}

    def start(record: Mapping[str, Any]) -> None:
        total["epochs"] = record["epochs"]
        for note in record["notes"]:
            say(note)

    def line(record: Mapping[str, Any]) -> str:
        parts = [f"epoch {record['epoch']}/{total['epochs']}"]
        for name in ("loss", "classification", "mass", "strength"):
            if name in record:
                parts.append(f"{name} {record[name]:.3g}")
        parts += [f"{n[9:]} {v:.3g}" for n, v in record.items() if n.startswith("guidance/")]
        shown = ("accuracy", "worst_class", "over_chance", "exchanged_worst")
        parts += [f"val_{n} {record[f'val_{n}']:.3g}" for n in shown if f"val_{n}" in record]
        return "  ".join(parts)

    if not sys.stderr.isatty():

        def plain(kind: str, record: Mapping[str, Any]) -> None:
            if kind == "start":
                start(record)
            elif kind == "epoch":
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
            if kind == "start":
                start(record)
                return
            if kind == "epoch":
                bar.console.print(
                    printable(line(record)), soft_wrap=True, markup=False, highlight=False
                )
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
