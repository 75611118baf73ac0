"""`attnviz methods`: every way to make a map."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from ._options import AsJson

METHODS_SCHEMA = 1


def methods(
    family: Annotated[str, typer.Option(help="Only the methods of this family.")] = "",
    as_json: AsJson = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="As a table in Markdown.")] = False,
) -> None:
    """List the methods: name, what it is, and its paper."""
    from ..errors import did_you_mean
    from ._console import print_json, print_table

    everything = sorted(_all(), key=lambda e: (e.family, e.name))
    entries = [e for e in everything if family in ("", e.family)]
    if not entries:
        known = sorted({e.family for e in everything})
        raise typer.BadParameter(
            f"family {family!r} is not known{did_you_mean(family, known) or '.'} "
            f"Known: {', '.join(known)}"
        )
    if as_json:
        fields = ("name", "family", "summary", "paper")
        rows = [{field: getattr(e, field) for field in fields} for e in entries]
        print_json("methods", METHODS_SCHEMA, methods=rows)
    elif markdown:
        print(markdown_table(entries))
    else:
        print_table(
            ["method", "family", "paper", "what it is"],
            [[e.name, e.family, e.paper, e.summary] for e in entries],
        )


def _all() -> Iterable[Any]:
    if entry_points(group="attnviz.methods"):  # somebody's plug-ins register on import alone
        from ..methods import METHODS

        return METHODS
    return stated_methods()


class Stated(NamedTuple):
    """What a method's file says of it."""

    name: str
    family: str
    summary: str
    paper: str


def stated_methods() -> list[Stated]:
    """Return the methods that attnviz has, read off their files: importing them imports torch."""
    found = []
    for path in sorted(Path(__file__, "../../methods").resolve().glob("*/[!_]*.py")):
        for node in ast.parse(path.read_bytes()).body:
            for call in getattr(node, "decorator_list", []):
                maker = getattr(getattr(call, "func", None), "id", "")
                if not isinstance(node, ast.FunctionDef) or not maker.startswith("register_"):
                    continue
                said = {k.arg: k.value.value for k in call.keywords if hasattr(k.value, "value")}
                summary = (ast.get_docstring(node) or "").split("\n", 1)[0]
                family = maker.removeprefix("register_")
                found.append(Stated(call.args[0].value, family, summary, said.get("paper", "")))
    return found


def markdown_table(entries: Iterable[Any]) -> str:
    """Return methods as a table in Markdown."""
    rows = [f"| `{e.name}` | {e.family} | {e.summary} | {paper_link(e.paper)} |" for e in entries]
    return "\n".join(["| method | family | what it is | paper |", "|---|---|---|---|", *rows])


def paper_link(paper: str) -> str:
    """Return a paper's source as Markdown, with every arXiv:... and DOI as a link."""
    paper = re.sub(r"\barXiv:(\d{4}\.\d{4,5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", paper)
    return re.sub(r"(?:\bdoi:)?\b(10\.\d{4,9}/[^\s,;]+)", r"[doi:\1](https://doi.org/\1)", paper)
