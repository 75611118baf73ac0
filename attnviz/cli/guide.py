"""`attnviz guide`: fine-tune a classifier on its labels and on where it looks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

GUIDE_SCHEMA = 1


def guide(
    data: Annotated[Path, typer.Option(help="Dataset: folders, COCO, VOC, CSV, index.json.")],
    out: Annotated[Path, typer.Option(help="Folder of the run.")],
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", help="As in `attnviz explain`; the embedded one if left out."
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Weights for that model (tensors only).")
    ] = None,
    object: Annotated[
        str | None,
        typer.Option(help="Train two classes, this one and other; all of the dataset's otherwise."),
    ] = None,
    masks: Annotated[
        Path | None, typer.Option(help="Folder of masks that mirror the images' names.")
    ] = None,
    fraction: Annotated[
        float, typer.Option(help="Share of the masks that is used, 0 to 1.", min=0, max=1)
    ] = 1.0,
    boxes: Annotated[
        bool, typer.Option("--boxes", help="Use boxes only (around masks where there are none).")
    ] = False,
    mixed: Annotated[
        bool,
        typer.Option("--mixed", help="Masks for --fraction of the images, boxes for the rest."),
    ] = False,
    loss: Annotated[
        str, typer.Option(help="A guidance loss: energy, gain, box, mixed, ...; none for labels.")
    ] = "energy",
    options: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="An option of the loss, such as form=relu or steepness=[5,20] (annealed); may be "
            "repeated.",
        ),
    ] = None,
    weight: Annotated[float, typer.Option(help="Strength of guidance.", min=0)] = 1.0,
    warmup: Annotated[float, typer.Option(help="Share of training before guidance.")] = 0.35,
    layer: Annotated[
        str | None, typer.Option(help="A name of `attnviz layers`; several with commas between.")
    ] = None,
    epochs: Annotated[int, typer.Option(min=1)] = 10,
    batch_size: Annotated[int, typer.Option(min=1)] = 16,
    accumulate: Annotated[int, typer.Option(min=1, help="Batches to a step.")] = 1,
    lr: Annotated[float, typer.Option(help="Largest learning rate.")] = 3e-4,
    optimizer: Annotated[str, typer.Option(help="sgd, adam, adamw or sam.")] = "adamw",
    freeze: Annotated[
        list[str] | None, typer.Option(help="A module that is not trained; may be repeated.")
    ] = None,
    batchnorm: Annotated[
        str, typer.Option(help="train, or eval to keep the statistics.")
    ] = "train",
    validation: Annotated[
        float, typer.Option(help="Share kept for validation where the data names none.")
    ] = 0.2,
    monitor: Annotated[
        str, typer.Option(help="What picks the best epoch: loss, accuracy, worst_class, outside.")
    ] = "loss",
    patience: Annotated[int | None, typer.Option(help="Stop after so many epochs.")] = None,
    amp: Annotated[bool, typer.Option("--amp", help="Half-precision autocast.")] = False,
    flip: Annotated[bool, typer.Option(help="Mirror training images at random.")] = True,
    skip_bad_masks: Annotated[
        bool, typer.Option("--skip-bad-masks", help="Take empty and full masks as missing.")
    ] = False,
    preprocess: Annotated[
        str | None, typer.Option(help="imagenet, ...; the model's own if left out.")
    ] = None,
    seed: Annotated[int, typer.Option()] = 0,
    photos: Annotated[int, typer.Option(help="Validation photos to keep maps of.")] = 4,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Start over in --out.")] = False,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Train a model to look at the object: cross-entropy plus a loss on its own map.

    Writes a checkpoint after each epoch, the best weights (model.safetensors) and maps of fixed
    photos before training and after each epoch. Images of a split named test are never read.
    """
    from ._console import print_json
    from ._guiding import layer_names, loss_options, prepare, report

    given = loss_options(options or ())
    run = prepare(
        data=data, model=model, checkpoint=checkpoint, object=object, masks=masks,
        fraction=fraction, boxes=boxes, mixed=mixed, loss=loss, validation=validation, flip=flip,
        preprocess=preprocess, seed=seed, device=device,
    )  # fmt: skip
    result = run.fit(
        out=out, resume=resume, force=force, photos=photos,
        loss=run.loss, loss_options=given, weight=weight, warmup=warmup,
        layer=layer_names(layer), epochs=epochs, batch_size=batch_size,
        accumulate=accumulate, lr=lr, optimizer=optimizer,
        freeze=tuple(freeze or ()), batchnorm=batchnorm, monitor=monitor, patience=patience,
        amp=amp, degenerate="skip" if skip_bad_masks else "error", seed=seed,
    )  # fmt: skip
    if as_json:
        print_json(
            "guide", GUIDE_SCHEMA, folder=str(out), best_epoch=result.best_epoch,
            stopped=result.stopped, classes=list(run.train.classes), annotated=run.train.counts(),
            history=[dict(r) for r in result.history], events=list(result.events),
        )  # fmt: skip
        return
    report(run, result)
