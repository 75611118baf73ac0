"""`attnviz export`: a model that gives its map with its logits, as a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ._options import AsJson, ExampleSize, Layer, Subject, example_size, takes_model

EXPORT_SCHEMA = 1


@takes_model(positional=True, photos=False)
def export(
    with_map: Annotated[
        Path, typer.Option(help="The file: .onnx, or .pt2 (torch.export's program).")
    ],
    subject: Subject,
    size: ExampleSize = None,
    layer: Layer = None,
    as_json: AsJson = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
) -> None:
    """Write a model whose one forward gives logits and the predicted class's map.

    Outputs are "logits" (B, classes) and "heatmap" (B, h, w), of "input" (B, C, H, W) preprocessed.
    """
    import torch

    from ..errors import OutputExists
    from ..exporting import export_with_map
    from ..models.argument import dtype_of
    from ._console import print_json

    if with_map.exists() and not force:
        raise OutputExists(f"{str(with_map)!r} exists already; pass --force to overwrite it")
    loaded = subject.load(photos=False)
    # noise: a map of one colour would be equal to any other flat one
    drawn = torch.Generator().manual_seed(0)
    inputs = torch.randn(1, 3, *example_size(loaded, size), generator=drawn)
    inputs = inputs.to(dtype_of(loaded.module))
    made = export_with_map(loaded, with_map, inputs, layer=layer, force=force)
    size = list(inputs.shape[1:])
    if as_json:
        print_json(
            "export", EXPORT_SCHEMA, model=loaded.name, file=str(with_map), method=made.method,
            input=size,
        )  # fmt: skip
    else:
        print(f"{with_map}: {loaded.name}, input B x {' x '.join(map(str, size))}, {made.method}")
