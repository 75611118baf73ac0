"""`attnviz export`: a model that gives its map with its logits, as a file."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ._app import tell
from ._options import AsJson, ExampleSize, Layer, Subject, example_size, takes_model

EXPORT_SCHEMA = 1


@takes_model(positional=True)
def export(
    with_map: Annotated[
        Path, typer.Option(help="The file: .onnx, or .pt2 (torch.export's program).")
    ],
    subject: Subject,
    size: ExampleSize = None,
    layer: Layer = None,
    quantize: Annotated[
        str | None, typer.Option(help="int8: the .onnx in 8 bits, fitted to --photos.")
    ] = None,
    photos: Annotated[
        list[str] | None,
        typer.Option(help="For --quantize: files, folders, patterns; half is kept to compare."),
    ] = None,
    as_json: AsJson = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
) -> None:
    """Write a model whose one forward gives logits and the predicted class's map.

    Outputs are "logits" (B, classes) and "heatmap" (B, h, w), of "input" (B, C, H, W) preprocessed.
    With --quantize it is said how far the maps in 8 bits are those of the whole model.
    """
    import torch

    from ..data import Sample
    from ..data.prepared import Prepared
    from ..errors import OutputExists
    from ..exporting import export_with_map
    from ..images import find_images
    from ..models import resolve_preprocess
    from ..models.argument import dtype_of
    from ..quantizing import quantise
    from ._console import print_json

    if with_map.exists() and not force:
        raise OutputExists(f"{str(with_map)!r} exists already; pass --force to overwrite it")
    if quantize is None and (photos or subject.states_preprocessing):
        raise typer.BadParameter(
            "no photo is read: --photos and what prepares them go with --quantize"
        )
    if quantize is not None and (quantize != "int8" or with_map.suffix != ".onnx" or not photos):
        raise typer.BadParameter("--quantize int8 takes an .onnx file and --photos to fit it to")
    loaded = subject.load(photos=quantize is not None)
    # noise: a map of one colour would be equal to any other flat one
    drawn = torch.Generator().manual_seed(0)
    inputs = torch.randn(1, 3, *example_size(loaded, size), generator=drawn)
    inputs = inputs.to(dtype_of(loaded.module))
    made = export_with_map(loaded, with_map, inputs, layer=layer, force=force)
    sides = list(inputs.shape[1:])
    agreement = None
    if photos:
        prepare = resolve_preprocess(None, loaded.module, loaded)
        found = [Sample(str(path), path) for path in find_images(photos)]
        agreement = quantise(with_map, [Prepared.read(s, prepare).input for s in found])
    if as_json:
        print_json(
            "export", EXPORT_SCHEMA, model=loaded.name, file=str(with_map), method=made.method,
            input=sides, quantized=None if agreement is None else asdict(agreement),
        )  # fmt: skip
    else:
        tell(f"{with_map}: {loaded.name}, input B x {' x '.join(map(str, sides))}, {made.method}")
        if agreement is not None:
            tell(f"in 8 bits: {agreement}")
