"""`attnviz inspect`: the attention mechanisms of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ._options import AsJson, ExampleSize, Subject, example_size, takes_model

INSPECT_SCHEMA = 1


@takes_model(positional=True, photos=False)
def inspect(
    subject: Subject,
    size: ExampleSize = None,
    draw: Annotated[
        Path | None, typer.Option(help="Write a drawing of the network, .svg, .png or .pdf.")
    ] = None,
    as_json: AsJson = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the drawing.")] = False,
) -> None:
    """List every attention mechanism: what kind it is, what attends to what, what it costs.

    The architecture alone is built and run on a random picture: no weights are fetched.
    """
    import torch

    from ..inspection import inspect as take_inventory
    from ._app import say, tell
    from ._console import print_json, print_table
    from ._files import refuse_existing, write_file

    if draw is not None:
        if draw.suffix.lower() not in (".svg", ".png", ".pdf"):
            raise typer.BadParameter(f"--draw {str(draw)!r} ends in none of .svg, .png, .pdf")
        if not force:
            refuse_existing([draw])
    loaded = subject.load(pretrained=False, photos=False)
    height, width = example_size(loaded, size)
    generator = torch.Generator().manual_seed(0)
    example = torch.randn(1, 3, height, width, generator=generator)
    inventory = take_inventory(loaded.module, example, name=loaded.name)
    if draw is not None:
        from ..inspection.drawing import draw as drawing
        from ..render.vector import encoded

        drawn = encoded(drawing(loaded.module, inventory), draw.suffix)
        write_file(draw, drawn, force=force)
        say(f"drawing: {draw}")
    if as_json:
        print_json("inspect", INSPECT_SCHEMA, **inventory.as_dict())
        return
    if not len(inventory):
        tell(f"{loaded.name}: none (no softmax attention, gate, warp or deformed sampling ran)")
    else:
        header = ["module", "kind", "mechanism", "what attends", "shape", "parameters", "compute"]
        print_table(header, inventory.table())
    for text in inventory.missed:
        say(f"not read: {text}")
