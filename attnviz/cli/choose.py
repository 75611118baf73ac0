"""`attnviz choose`: which images to annotate next, as files for annotation tools."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ._app import tell
from ._options import AsJson, Labels, Layer, Subject, takes_model

CHOOSE_SCHEMA = 1


@takes_model()
def choose(
    data: Annotated[Path, typer.Argument(help="Images with labels: folders, COCO, VOC, CSV.")],
    subject: Subject,
    budget: Annotated[int, typer.Option(min=1, help="Images to annotate.")] = 50,
    object: Annotated[
        str | None, typer.Option(help="Images of this class only; of all classes if left out.")
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            help="The model's classes for the data's: boat=speedboat,..., or a JSON file."
        ),
    ] = None,
    masks: Annotated[
        Path | None, typer.Option(help="Masks that are there: a folder, or annotations.")
    ] = None,
    criterion: Annotated[
        str, typer.Option(help="outside, flip, layers, heads, confusion, or random.")
    ] = "outside",
    split: Annotated[str | None, typer.Option(help="Of one split of the data only.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the files.")] = Path("annotate"),
    labels: Labels = None,
    layer: Layer = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Inputs a forward pass.")] = 32,
    as_json: AsJson = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the files.")] = False,
) -> None:
    """Choose the images whose annotation is expected to help most.

    Those whose evidence lies most outside of its main part, in turn by class. Writes them as a
    COCO file and as tasks for Label Studio, with polygons from the model's map to correct. What
    comes back is read by --masks of `guide` and `audit`.
    """
    from ..data import open_dataset
    from ..data.proposing import FILES, write_proposals
    from ..guidance import classes_among, propose
    from ..methods.progress import watched
    from ..models import labels_of, read_labels
    from ._classes import read_classes
    from ._console import counted, print_json
    from ._files import refuse_existing

    if not force:
        refuse_existing([out / name for name in FILES])
    dataset = open_dataset(data, masks=masks, split=split)
    loaded = subject.load()
    names: Any = read_labels(labels) if labels else labels_of(loaded.module, loaded)
    if object is not None:
        dataset.class_index(object)
    outputs = _outputs(loaded, dataset)
    found = classes_among(dataset.classes, outputs, names, read_classes(classes))
    if object is not None and object not in found:
        classes_among([object], outputs, names or [], read_classes(classes))
    wanted = found if object is None else {object: found[object]}
    with watched(counted):
        proposals, pool = propose(
            loaded, dataset, budget, classes=wanted, criterion=criterion, layer=layer,
            batch_size=batch_size,
        )  # fmt: skip
    root = dataset.root if dataset.root is None or dataset.root.is_dir() else dataset.root.parent
    paths = write_proposals(proposals, out, root=root, force=force)
    files = {k: str(p) for k, p in paths.items()}
    if as_json:
        chosen = [{"id": p.sample.id, "label": p.label, "score": p.score} for p in proposals]
        print_json("choose", CHOOSE_SCHEMA, criterion=criterion, pool=pool, chosen=chosen,
                   masks_from=proposals[0].source, files=files)  # fmt: skip
        return
    counts = {name: sum(p.label == name for p in proposals) for name in wanted}
    tell(f"chosen   {len(proposals)} of {pool} images without annotation, by '{criterion}': "
          + ", ".join(f"{name} {n}" for name, n in counts.items() if n))  # fmt: skip
    tell(f"filled   with regions from the model's map ({proposals[0].source}): correct them")
    tell(f"coco     {paths['coco']}")
    tell(f"tasks    {paths['label_studio']} (labels: {paths['labels']})")
    tell("back     --masks FILE of attnviz guide and audit reads a corrected COCO file, or Label "
          "Studio's JSON export")  # fmt: skip


def _outputs(loaded: Any, dataset: Any) -> int:
    """Return the number of the model's classes."""
    import torch

    from ..data.prepared import Prepared
    from ..hooks import preserved
    from ..models import resolve_preprocess
    from ..models.outputs import class_count, logits_of

    prepare = resolve_preprocess(None, loaded.module, loaded)
    first = Prepared.read(dataset[0], prepare).input[None]
    parameter = next(loaded.module.parameters(), first)
    with preserved(loaded.module, eval_mode=True), torch.no_grad():
        return class_count(logits_of(loaded.module(first.to(parameter.device))))
