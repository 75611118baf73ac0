"""`attnviz guide`: fine-tune a classifier on its labels and on where it looks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ._options import MasksFrom, Subject, takes_model

GUIDE_SCHEMA = 1


@takes_model(
    preprocess="imagenet, clip, unit, or a run's preprocess.json; the model's own if left out, "
    "without its crop where that would cut annotated objects."
)
def guide(
    data: Annotated[Path, typer.Option(help="Dataset: folders, COCO, VOC, CSV, index.json.")],
    out: Annotated[Path, typer.Option(help="Folder of the run.")],
    subject: Subject,
    object: Annotated[
        str | None,
        typer.Option(help="Train two classes, this one and other; all of the dataset's otherwise."),
    ] = None,
    masks: Annotated[
        Path | None,
        typer.Option(
            help="Folder of masks that mirror the images' names, or a COCO or Label Studio file."
        ),
    ] = None,
    masks_from: MasksFrom = None,
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
            help="An option of the loss, such as form=relu or steepness=[5,20] (annealed); with "
            "erasing., pooling. or exchange. before its name one of theirs, such as "
            "pooling.r=1; may be repeated.",
        ),
    ] = None,
    weight: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Strength of guidance; 30 where objects of two classes can be exchanged and the "
            "tail is trained, else 1.",
        ),
    ] = None,
    warmup: Annotated[float, typer.Option(help="Share of training before guidance.")] = 0.3,
    exchange: Annotated[
        bool | None,
        typer.Option(
            "--exchange/--no-exchange",
            help="Objects of annotated images in front of other classes' grounds; on where two "
            "classes have masks or boxes.",
        ),
    ] = None,
    exchanged: Annotated[int, typer.Option(min=1, help="Such images beside each batch.")] = 12,
    erasing: Annotated[
        str | None,
        typer.Option(
            help="Train with an erasing scheme: acol, adl, cutmix, has (hide-and-seek), eil, "
            "seenet or cascade."
        ),
    ] = None,
    pooling: Annotated[
        str | None,
        typer.Option(help="Pool patch scores: lse, topk, gmp, noisy-or, attention-mil or gap."),
    ] = None,
    train: Annotated[
        str, typer.Option(help="What is trained: tail (the last stage), all, or head.")
    ] = "tail",
    head: Annotated[
        str | None,
        typer.Option(help="dfr: retrain the last layer on --balanced data, after all else."),
    ] = None,
    balanced: Annotated[
        Path | None,
        typer.Option(help="Dataset for --head dfr, in which context does not tell the class."),
    ] = None,
    context: Annotated[
        str | None,
        typer.Option(help="A label of the --balanced data that with the class makes its groups."),
    ] = None,
    even: Annotated[
        bool | None,
        typer.Option(
            "--even/--as-drawn", help="Draw the classes equally often; on where they are uneven."
        ),
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            help="The map that is trained: a CAM, or of transformers' attention legrad, "
            "generic_relevance, rollout, ..."
        ),
    ] = "gradcam",
    layer: Annotated[
        str | None, typer.Option(help="A name of `attnviz layers`; several with commas between.")
    ] = None,
    against: Annotated[
        str, typer.Option(help="The map's margin: strongest or all others; none for one class.")
    ] = "strongest",
    epochs: Annotated[
        int | None, typer.Option(min=0, help="As many as make --steps if left out.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps of training.")] = 400,
    batch_size: Annotated[int, typer.Option(min=1)] = 16,
    accumulate: Annotated[int, typer.Option(min=1, help="Batches to a step.")] = 1,
    lr: Annotated[float, typer.Option(help="Largest learning rate.")] = 1e-3,
    optimizer: Annotated[str, typer.Option(help="sgd, adam, adamw or sam.")] = "adamw",
    freeze: Annotated[
        list[str] | None, typer.Option(help="A module that is not trained; may be repeated.")
    ] = None,
    batchnorm: Annotated[
        str | None,
        typer.Option(help="train, or eval to keep the statistics; eval unless all is trained."),
    ] = None,
    validation: Annotated[
        float, typer.Option(help="Share kept for validation where the data names none.")
    ] = 0.2,
    monitor: Annotated[
        str,
        typer.Option(
            help="What picks the best epoch: answer (worst class, as it is and exchanged), loss, "
            "accuracy, worst_class or outside."
        ),
    ] = "answer",
    patience: Annotated[int | None, typer.Option(help="Stop after so many epochs.")] = None,
    amp: Annotated[bool, typer.Option("--amp", help="Half-precision autocast.")] = False,
    flip: Annotated[bool, typer.Option(help="Mirror training images at random.")] = True,
    skip_bad_masks: Annotated[
        bool, typer.Option("--skip-bad-masks", help="Take empty and full masks as missing.")
    ] = False,
    baseline: Annotated[
        bool,
        typer.Option(
            "--baseline/--no-baseline",
            help="Where the classifier is new, train it on labels alone first, to compare with.",
        ),
    ] = True,
    seed: Annotated[int, typer.Option()] = 0,
    photos: Annotated[int, typer.Option(help="Validation photos to keep maps of.")] = 4,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Start over in --out.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Train a model to look at the object, and to answer by it.

    Cross-entropy, a loss on the map of the margin, and objects exchanged between annotated images
    of different classes. Prints what the network answers before and after: on validation images
    as they are and with the context of their objects changed. Writes a checkpoint after each
    epoch, the best weights (model.safetensors), answers.json, and maps of fixed photos before
    training and after each epoch. Images of a split named test are never read.
    """
    from ..writing import locked
    from ._answers import report
    from ._console import print_json, saying_what_is_kept
    from ._guiding import layer_names, prepare, split_options

    if (head is None) != (balanced is None) or head not in (None, "dfr"):
        raise typer.BadParameter("--head dfr and --balanced DATA go together")
    if epochs == 0 and head is None:
        raise typer.BadParameter("--epochs 0 trains nothing; it is for --head dfr")
    given = split_options(options or ())
    run = prepare(
        data=data, subject=subject, object=object, masks=masks, masks_from=masks_from,
        fraction=fraction, boxes=boxes, mixed=mixed, loss=loss, validation=validation, flip=flip,
        seed=seed,
    )  # fmt: skip
    kept = saying_what_is_kept(
        lambda: (
            f"the last whole epoch is kept in {str(out)!r}; the same with --resume goes on"
            if (out / "run.json").exists()
            else f"before the first epoch was whole; nothing is kept in {str(out)!r}"
        )
    )
    with locked(out), kept:
        result = run.fit(
            out=out, resume=resume, force=force, photos=photos, baseline=baseline,
            head=None if balanced is None else (balanced, context),
            loss=run.loss, weight=weight, warmup=warmup, exchange=exchange, exchanged=exchanged,
            erasing=erasing, pooling=pooling, train=train, balanced=even,
            method=method, layer=layer_names(layer), against=None if against == "none" else against,
            epochs=epochs, steps=steps, batch_size=batch_size,
            accumulate=accumulate, lr=lr, optimizer=optimizer,
            freeze=tuple(freeze or ()), batchnorm=batchnorm, monitor=monitor, patience=patience,
            amp=amp, degenerate="skip" if skip_bad_masks else "error", seed=seed, **given,
        )  # fmt: skip
    if as_json:
        print_json(
            "guide", GUIDE_SCHEMA, folder=str(out), classes=list(run.train.classes),
            annotated=run.train.counts(), **result.as_dict(),
        )  # fmt: skip
        return
    report(run, result)
