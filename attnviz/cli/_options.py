"""Options that several commands take, in one wording."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

MODEL_HELP = (
    "torchvision:NAME, timm:NAME, hf:NAME or package.module:factory; "
    "the embedded EfficientNet-Lite0 if left out."
)

ModelArgument = Annotated[str | None, typer.Argument(metavar="[MODEL]", help=MODEL_HELP)]
ModelOption = Annotated[str | None, typer.Option("--model", "-m", help=MODEL_HELP)]
Checkpoint = Annotated[
    Path | None, typer.Option(help="Weights for that model, .safetensors or .pth (tensors only).")
]
Layer = Annotated[str | None, typer.Option(help="A name of `attnviz layers`; chosen if left out.")]
Preprocessing = Annotated[
    str | None,
    typer.Option(help="imagenet, imagenet-inception or clip; the model's own if left out."),
]
Labels = Annotated[
    str | None,
    typer.Option(help="Class names: a file (text, JSON, CSV, YAML), a,b,c, or imagenet."),
]
MasksFrom = Annotated[
    str | None,
    typer.Option(
        help="hf:NAME or hf:FOLDER of a segmenter (SegFormer, Mask2Former): its masks where the "
        "data has none, marked as such."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
Device = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:1, mps; the GPU if there is one.")
]
