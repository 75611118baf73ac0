"""What a command prints: results on stdout, progress on stderr."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

import typer

from .. import __version__
from ..processes import current
from ..writing import printable
from ._app import INTERRUPTED, say
from ._interrupts import asked_to_stop, stop_if_asked


def print_json(kind: str, schema_version: int, **fields: Any) -> None:
    """Print one JSON document: `schema`, `schema_version` and `attnviz`, then the fields.

    The schema version grows when a field changes its meaning or goes; new fields may come without.
    """
    head = {
        "schema": f"attnviz.{kind}",
        "schema_version": schema_version,
        "attnviz": __version__,
    }
    text = json.dumps(head | fields, indent=2, ensure_ascii=False, allow_nan=False)
    if any(line != printable(line) for line in text.split("\n")):
        text = json.dumps(head | fields, indent=2, allow_nan=False)
    print(text)


def print_table(header: list[str], rows: list[list[str]]) -> None:
    """Print columns, aligned by spaces and never cut, so that they can be searched and piped."""
    widths = [max(len(r[i]) for r in [header, *rows]) for i in range(len(header))]
    for row in [header, *rows]:
        line = "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True))
        print(printable(line.rstrip()))


@contextlib.contextmanager
def saying_what_is_kept(words: Callable[[], str]) -> Iterator[None]:
    """On Ctrl-C say what is kept and how to go on, and leave with the exit code of that."""
    try:
        yield
    except BaseException as stop:
        if not asked_to_stop(stop):
            raise
        say(f"interrupted: {words()}")
        raise typer.Exit(INTERRUPTED) from stop


class Progress:
    """How far a command is, without a bar: lines only."""

    def step(self, count: int = 1) -> None:
        """Count items as done; a Ctrl-C that got lost on the way is raised here."""
        stop_if_asked()

    def result(self, line: str) -> None:
        """Print a line of results to stdout."""
        print(printable(line), flush=True)

    def note(self, line: str) -> None:
        """Print a line about what happened to stderr."""
        print(printable(line), file=sys.stderr, flush=True)


class _Bar(Progress):
    """The same with a bar on the terminal; lines that go to the terminal stand above it."""

    def __init__(self, shown: Any, what: str, total: int) -> None:
        self._shown = shown
        self._task = shown.add_task(what, total=total)
        self._stdout_too = sys.stdout.isatty()

    def step(self, count: int = 1) -> None:
        super().step(count)
        self._shown.advance(self._task, count)

    def result(self, line: str) -> None:
        if self._stdout_too:
            self.note(line)
        else:
            super().result(line)

    def note(self, line: str) -> None:
        # whole lines, so that paths can be copied
        self._shown.console.print(printable(line), soft_wrap=True, markup=False, highlight=False)


@contextlib.contextmanager
def progress(what: str, total: int) -> Iterator[Progress]:
    """Show a bar with rate and time left on stderr if it is a terminal."""
    if total < 2 or not (sys.stderr.isatty() and current().first):
        yield Progress()
        return
    from rich import progress as bar
    from rich.console import Console
    from rich.text import Text

    class Rate(bar.ProgressColumn):
        def render(self, task: bar.Task) -> Text:
            return Text(f"{task.finished_speed or task.speed or 0:.1f}/s")

    columns = (
        bar.TextColumn("{task.description}"),
        bar.BarColumn(),
        bar.MofNCompleteColumn(),
        Rate(),
        bar.TimeRemainingColumn(),
    )
    with bar.Progress(*columns, console=Console(stderr=True), redirect_stdout=False) as shown:
        yield _Bar(shown, what, total)


@contextlib.contextmanager
def counted(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show the passes of a slow method the same way; for `attnviz.methods.progress.watched`."""
    with progress(what, total) as bar:
        yield bar.step
