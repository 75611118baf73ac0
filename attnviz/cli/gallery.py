"""`attnviz gallery`: every attention mechanism on one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ._app import tell
from ._options import listed

GALLERY_SCHEMA = 1


def gallery(
    out: Annotated[Path, typer.Option(help="Folder for gallery.html.")] = Path("attnviz-gallery"),
    only: Annotated[
        list[str] | None,
        typer.Option(help="Only these cards, with commas or repeated; cbam is all that begin so."),
    ] = None,
    family: Annotated[
        str | None,
        typer.Option(
            help="Only cards of this family: channel, spatial, hard, temporal, branch, sequence "
            "or self-supervised."
        ),
    ] = None,
    listing: Annotated[
        bool, typer.Option("--list", help="Name the cards instead of drawing them.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON document on stdout: numbers of every card.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the page.")] = False,
) -> None:
    """Draw attention mechanisms of the literature, each from a model that runs here and now.

    Writes one page that opens offline: picture, sentence, equation, paper, and how to read it.
    """
    from ..errors import DataError, MethodError
    from ..gallery import drawing, save_page
    from ._app import FAILURE
    from ._console import print_json, print_table, progress
    from ._files import refuse_existing

    names = listed(only)
    try:
        found = drawing.chosen(names, family)
    except (MethodError, DataError) as error:
        raise typer.BadParameter(str(error)) from error
    if listing:
        fields = ("name", "title", "family", "paper")
        rows = [{field: getattr(card, field) for field in fields} for card in found]
        if as_json:
            print_json("gallery", GALLERY_SCHEMA, cards=rows)
        else:
            print_table(["card", *fields[1:]], [list(row.values()) for row in rows])
        return
    path = out / "gallery.html"
    if not force:
        refuse_existing([path])
    drawn = []
    with progress("drawing", len(found)) as bar:
        for card in found:
            drawn.append(drawing.draw(card))
            bar.step()
            said = "failed: " + drawn[-1].error if drawn[-1].error else f"{drawn[-1].seconds:.1f} s"
            bar.note(f"{card.name}: {said}")
    save_page(path, drawn, force=force)
    if as_json:
        print_json(
            "gallery", GALLERY_SCHEMA, file=str(path.absolute()), cards=[_row(d) for d in drawn]
        )
    else:
        tell(str(path.absolute()))
    if any(d.error for d in drawn):
        raise typer.Exit(FAILURE)


def _row(drawn: Any) -> dict[str, Any]:
    import math

    card = drawn.card
    fields = ("name", "title", "family", "sentence", "equation", "paper", "reads", "code")
    return {field: getattr(card, field) for field in fields} | {
        "shape": list(drawn.shape),
        "caption": drawn.caption,
        "numbers": {k: v if math.isfinite(v) else None for k, v in drawn.numbers.items()},
        "seconds": round(drawn.seconds, 3),
        "error": drawn.error,
    }
