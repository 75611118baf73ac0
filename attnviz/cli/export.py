"""`attnviz export`: a model that gives its map with its logits, as a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ._options import AsJson, Layer, Subject, takes_model

EXPORT_SCHEMA = 1


@takes_model(positional=True)
def export(
    with_map: Annotated[
        Path, typer.Option(help="The file: .onnx, or .pt2 (torch.export's program).")
    ],
    subject: Subject,
    layer: Layer = None,
    as_json: AsJson = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
) -> None:
    """Write a model whose one forward gives logits and the predicted class's map.

    Outputs are "logits" (B, classes) and "heatmap" (B, h, w), of "input" (B, C, H, W) preprocessed.
    """
    import numpy as np

    from ..errors import OutputExists
    from ..exporting import export_with_map
    from ..models import resolve_preprocess
    from ._console import print_json

    if with_map.exists() and not force:
        raise OutputExists(f"{str(with_map)!r} exists already; pass --force to overwrite it")
    loaded = subject.load()
    prepare = resolve_preprocess(None, loaded.module, loaded)
    example, _ = prepare(np.full((256, 256, 3), 127, np.uint8))
    parameter = next(loaded.module.parameters())
    # noise: a map of one colour would be equal to any other flat one
    noise = np.random.default_rng(0).standard_normal(tuple(example.shape)).astype(np.float32)
    inputs = example.new_tensor(noise)[None].to(parameter.device, parameter.dtype)
    made = export_with_map(loaded, with_map, inputs, layer=layer, force=force)
    size = list(inputs.shape[1:])
    if as_json:
        print_json(
            "export", EXPORT_SCHEMA, model=loaded.name, file=str(with_map), method=made.method,
            input=size,
        )  # fmt: skip
    else:
        print(f"{with_map}: {loaded.name}, input B x {' x '.join(map(str, size))}, {made.method}")
