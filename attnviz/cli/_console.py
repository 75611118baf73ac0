"""What a command prints: results on stdout, progress on stderr."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

from .. import __version__


def print_json(kind: str, schema_version: int, **fields: Any) -> None:
    """Print one JSON document: `schema`, `schema_version` and `attnviz`, then the fields.

    The schema version grows when a field changes its meaning or goes; new fields may come without.
    """
    head = {
        "schema": f"attnviz.{kind}",
        "schema_version": schema_version,
        "attnviz": __version__,
    }
    print(json.dumps(head | fields, indent=2, ensure_ascii=False, allow_nan=False))


def print_table(header: list[str], rows: list[list[str]]) -> None:
    """Print columns, aligned by spaces and never cut, so that they can be searched and piped."""
    widths = [max(len(r[i]) for r in [header, *rows]) for i in range(len(header))]
    for row in [header, *rows]:
        print("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip())


@contextlib.contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[], None]]:
    """Show a bar with rate and time left on stderr if it is a terminal; gives the step function."""
    if total < 2 or not sys.stderr.isatty():
        yield lambda: None
        return
    from rich import progress as bar
    from rich.console import Console

    class Rate(bar.ProgressColumn):
        def render(self, task: bar.Task) -> str:
            return f"{task.finished_speed or task.speed or 0:.1f}/s"

    columns = (
        bar.TextColumn("{task.description}"),
        bar.BarColumn(),
        bar.MofNCompleteColumn(),
        Rate(),
        bar.TimeRemainingColumn(),
    )
    # results printed meanwhile go above the bar, but only if they go to the same terminal
    with bar.Progress(
        *columns, console=Console(stderr=True), redirect_stdout=sys.stdout.isatty()
    ) as shown:
        task = shown.add_task(what, total=total)
        yield lambda: shown.advance(task)
