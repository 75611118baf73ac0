"""`attnviz verify`: do the maps of a data set still hold?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ._app import GATE_FAILED
from ._options import AsJson, Subject, takes_model

VERIFY_SCHEMA = 1


@takes_model()
def verify(
    result: Annotated[Path, typer.Argument(help="The folder of `attnviz explain --shards`.")],
    subject: Subject,
    sample: Annotated[int, typer.Option(min=1, help="How many maps are computed again.")] = 16,
    data: Annotated[
        str | None,
        typer.Option(
            help="The data set, where its images are no files of their own (tar shards, rows of "
            "a table) or have moved."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compute some of a data set's maps again and say whether they hold; exit 3 if one does not.

    Give the model as it was given to `attnviz explain --shards`.
    """
    from ..shards import verify as again
    from ._console import print_json, print_table
    from ._sharding import samples_at

    loaded = subject.load()
    samples = None if data is None else samples_at([data], result)
    found = again(loaded, result, sample=sample, samples=samples)
    if as_json:
        print_json("verify", VERIFY_SCHEMA, model=loaded.name, checked=found)
    else:
        rows = [
            [f["sample"], "holds" if f["holds"] else "differs",
             "" if f["difference"] is None else f"{f['difference']:.2g}", f["reason"]]
            for f in found
        ]  # fmt: skip
        print_table(["image", "map", "difference", "why"], rows)
    if not all(f["holds"] for f in found):
        raise typer.Exit(GATE_FAILED)
