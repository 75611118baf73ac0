"""`attnviz concepts`: the few patterns that a layer sees in many photos."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ._app import tell
from ._options import AsJson, Labels, Layer, Subject, takes_model

CONCEPTS_SCHEMA = 1


@takes_model()
def concepts(
    photos: Annotated[list[str], typer.Argument(metavar="PHOTOS...", help="Files or folders.")],
    subject: Subject,
    count: Annotated[int, typer.Option(min=1, help="How many concepts.")] = 6,
    layer: Layer = None,
    labels: Labels = None,
    out: Annotated[Path, typer.Option(help="Folder for the picture.")] = Path("attnviz-out"),
    most: Annotated[int, typer.Option(min=1, help="Photos shown a concept.")] = 6,
    as_json: AsJson = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the picture.")] = False,
) -> None:
    """Find the few concepts that a layer's activations consist of, and the photos they lie in."""
    from ..concepts import find_concepts
    from ..images import picture_bytes
    from ..methods.progress import watched
    from ..models import read_labels
    from ._console import counted, print_json
    from ._files import refuse_existing, write_file
    from ._photos import gather

    goal = out / "concepts.png"
    if not force:
        refuse_existing([goal])
    chosen, failed = gather(photos, leave_out=out)
    if failed:
        raise failed[0][1]
    with watched(counted):
        found = find_concepts(
            subject.load(), chosen, count=count, layer=layer,
            labels=read_labels(labels) if labels else None,
        )  # fmt: skip
    write_file(goal, picture_bytes(found.sheet(most=most), ".png"), force=force)
    rows = [
        {
            "concept": k,
            "share": float(found.share[k]),
            "classes": [{"label": name, "adds": value} for name, value in found.classes(k)],
            "photos": [str(chosen[i]) for i in found.examples(k, most=most)],
        }
        for k in range(len(found))
    ]
    if as_json:
        print_json(
            "concepts", CONCEPTS_SCHEMA, layer=found.maps.layer, error=found.error, cut=found.cut,
            picture=str(goal.absolute()), concepts=rows,
        )  # fmt: skip
        return
    kept = 1 - found.error**2
    tell(f"{len(chosen)} photos at {found.maps.layer}: {kept:.0%} of the squared activation")
    for k in range(len(found)):
        tell(found.describe(k))
    tell(f"picture {goal.absolute()}")
