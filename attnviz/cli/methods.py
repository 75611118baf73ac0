"""`attnviz methods`: every way to make a map."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from ._options import AsJson

METHODS_SCHEMA = 1


def methods(
    family: Annotated[str, typer.Option(help="Only the methods of this family.")] = "",
    as_json: AsJson = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="The table as the README holds it.")
    ] = False,
) -> None:
    """List the methods: name, what it is, and its paper."""
    from ..errors import did_you_mean
    from ..methods import METHODS
    from ._console import print_json, print_table

    entries = sorted(
        (e for e in METHODS if family in ("", e.family)), key=lambda e: (e.family, e.name)
    )
    if not entries:
        known = sorted({e.family for e in METHODS})
        raise typer.BadParameter(
            f"family {family!r} is not known{did_you_mean(family, known) or '.'} "
            f"Known: {', '.join(known)}"
        )
    if as_json:
        fields = ("name", "family", "summary", "paper")
        rows = [{field: getattr(e, field) for field in fields} for e in entries]
        print_json("methods", METHODS_SCHEMA, methods=rows)
    elif markdown:
        print("| method | family | what it is | paper |\n|---|---|---|---|")
        for e in entries:
            print(f"| `{e.name}` | {e.family} | {e.summary} | {paper_link(e.paper)} |")
    else:
        print_table(
            ["method", "family", "paper", "what it is"],
            [[e.name, e.family, e.paper, e.summary] for e in entries],
        )


def paper_link(paper: str) -> str:
    """Return a paper's source as Markdown, with every arXiv:... and DOI as a link."""
    paper = re.sub(r"\barXiv:(\d{4}\.\d{4,5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", paper)
    return re.sub(r"(?:\bdoi:)?\b(10\.\d{4,9}/[^\s,;]+)", r"[doi:\1](https://doi.org/\1)", paper)
