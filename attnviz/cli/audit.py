"""`attnviz audit`: does a model know the object, or what usually surrounds it?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ._app import GATE_FAILED

PAIRS_SCHEMA = 1


def audit(
    data: Annotated[
        Path, typer.Option(help="Images with labels, and masks or boxes: a folder, COCO, VOC, CSV.")
    ],
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", help="As in `attnviz explain`; the embedded one if left out."
        ),
    ] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Weights for that model.")] = None,
    object: Annotated[
        str | None, typer.Option(help="The class that the model should read.")
    ] = None,
    context: Annotated[str | None, typer.Option(help="What usually surrounds it.")] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(help="The model's class or classes for the object; the object's if left out."),
    ] = None,
    masks: Annotated[bool, typer.Option("--masks", help="Regions from masks.")] = False,
    boxes: Annotated[bool, typer.Option("--boxes", help="Regions from boxes.")] = False,
    groups: Annotated[bool, typer.Option("--groups", help="No regions: groups alone.")] = False,
    split: Annotated[str | None, typer.Option(help="Audit one split of the data only.")] = None,
    against: Annotated[
        str | None,
        typer.Option(help="A second model (after), or a checkpoint of the same architecture."),
    ] = None,
    all_classes: Annotated[
        bool, typer.Option("--all-classes", help="Rank all class pairs by risk of confusion.")
    ] = False,
    trained_on: Annotated[
        Path | None, typer.Option(help="Training data; an image of it in DATA is refused.")
    ] = None,
    fail_above: Annotated[
        float | None,
        typer.Option(help="Exit 3 if the severity (0 to 1) is surely above this: a gate for CI."),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder for report.html, audit.json, images.csv.")
    ] = Path("attnviz-audit"),
    as_json: Annotated[bool, typer.Option("--json", help="The JSON document on stdout.")] = False,
    allow_empty_groups: Annotated[
        bool, typer.Option("--allow-empty-groups", help="Audit with a group missing.")
    ] = False,
    preprocess: Annotated[
        str | None,
        typer.Option(help="imagenet, clip ... or unit (RGB in 0..1); the model's own if left out."),
    ] = None,
    labels: Annotated[
        str | None, typer.Option(help="Class names, with commas, or a text file of one a line.")
    ] = None,
    method: Annotated[
        str, typer.Option(help="Maps of the CAM family, with commas.")
    ] = "gradcam,hirescam,layercam",
    fill: Annotated[
        str, typer.Option(help="How regions are emptied, with commas.")
    ] = "inpaint,blur,mean",
    layer: Annotated[str | None, typer.Option(help="A name of `attnviz layers`.")] = None,
    examples: Annotated[int, typer.Option(min=0, help="Images shown in the report.")] = 12,
    batch_size: Annotated[int, typer.Option(min=1, help="Inputs a forward pass.")] = 32,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, mps.")] = None,
    seed: Annotated[int, typer.Option(help="Of donors and bootstrap.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where a run stopped.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the report.")] = False,
) -> None:
    """Audit a classifier for reading the context instead of the object: boats, or water?

    Prints the verdict with its uncertainty and writes a report that opens offline.
    """
    from ..data import open_dataset
    from ._console import print_json, progress
    from ._files import refuse_existing
    from ._models import load_model

    if masks + boxes + groups > 1:
        raise typer.BadParameter("--masks, --boxes and --groups exclude one another")
    if not all_classes and (object is None or context is None):
        raise typer.BadParameter("--object and --context are needed (or --all-classes)")
    if fail_above is not None and not 0 <= fail_above <= 1:
        raise typer.BadParameter(f"--fail-above {fail_above} is no share from 0 to 1")
    if all_classes and (against is not None or fail_above is not None):
        raise typer.BadParameter("--all-classes takes neither --against nor --fail-above")
    if not force and not all_classes:
        refuse_existing([out / name for name in ("report.html", "audit.json", "images.csv")])
    dataset = open_dataset(data, split=split)
    loaded = load_model(model, checkpoint, device)
    common: dict[str, Any] = {
        "preprocess": _preprocess(preprocess), "labels": _labels(labels), "batch_size": batch_size,
    }  # fmt: skip
    if all_classes:
        _all_classes(loaded, dataset, as_json, common)
        return
    options = common | {
        "object": object, "context": context,
        "target": [int(t) if t.isdecimal() else t for t in target] if target else None,
        "regions": "masks" if masks else "boxes" if boxes else "groups" if groups else "auto",
        "trained_on": open_dataset(trained_on) if trained_on else None,
        "allow_empty_groups": allow_empty_groups, "methods": method.split(","),
        "fills": fill.split(","), "layer": layer, "examples": examples, "seed": seed,
        "resume": resume,
    }  # fmt: skip
    from ..audit import compare, confusion

    journal = out / "journal.jsonl"
    if not resume:
        _fresh(journal)
    models = [(loaded, journal)]
    if against is not None:
        second = Path(against)
        after = (
            load_model(model, second, device) if second.exists()
            else load_model(against, None, device)
        )  # fmt: skip
        models.append((after, out / "journal-after.jsonl"))
        if not resume:
            _fresh(out / "journal-after.jsonl")
    results = []
    for each, path in models:
        with progress("auditing", len(dataset)) as bar:
            seen = [0]

            def step(done: int, total: int, seen: list[int] = seen, bar: Any = bar) -> None:
                for _ in range(done - seen[0]):
                    bar.step()
                seen[0] = done

            results.append(confusion(each, dataset, journal=path, progress=step, **options))
    found: Any = results[0] if against is None else compare(*results)
    paths = found.save(out, force=force)
    for _, path in models:
        path.unlink(missing_ok=True)
    final = results[-1]
    failed = fail_above is not None and final.fails(fail_above)
    if as_json:
        document = found.as_dict()
        head = {k: document.pop(k) for k in ("schema", "schema_version")}
        print_json(
            head["schema"].removeprefix("attnviz."), head["schema_version"], **document,
            files={k: str(p) for k, p in paths.items()}, gate_failed=failed,
        )  # fmt: skip
    else:
        _print(found, results, paths)
    if failed:
        from ._app import say

        say(f"severity {final.severity} is above {fail_above:g}: the gate fails")
        raise typer.Exit(GATE_FAILED)


def _print(found: Any, results: list[Any], paths: dict[str, Path]) -> None:
    from ..audit.summary import percent
    from ._console import print_table

    if len(results) == 2:
        print(f"before   {results[0].verdict.text}")
        print(f"after    {results[1].verdict.text}")
        print(f"change   {found.text}")
    else:
        print(f"verdict  {results[0].verdict.text}")
        if results[0].verdict.why:
            print(f"note     {results[0].verdict.why}")
    rows = [
        [c.name, str(c.images), *(percent(a.cells[i].right) if c.images else "-" for a in results)]
        for i, c in enumerate(results[0].cells)
    ]
    right = ["right before", "right after"] if len(results) == 2 else ["right"]
    print_table(["group", "images", *right], rows)
    print(f"report   {paths['report'].absolute()}")


def _fresh(journal: Path) -> None:
    if journal.exists():
        from ..errors import OutputExists

        raise OutputExists(
            f"{str(journal)!r} holds an audit that was stopped; go on with --resume, or remove it"
        )


def _all_classes(loaded: Any, dataset: Any, as_json: bool, common: dict[str, Any]) -> None:
    from ..audit import rank_pairs
    from ._console import print_json, print_table

    pairs = rank_pairs(loaded, dataset, **common)
    if as_json:
        print_json("audit-pairs", PAIRS_SCHEMA, pairs=[p.as_dict() for p in pairs])
        return
    rows = [
        [p.object, p.context, f"{p.risk.value:.2f} [{p.risk.low:.2f}, {p.risk.high:.2f}]",
         f"{p.effect.value:+.2f}", "-" if p.adjusted != p.adjusted else f"{p.adjusted:.3g}",
         "/".join(map(str, p.counts))]
        for p in pairs
    ]  # fmt: skip
    print_table(
        [
            "object",
            "context",
            "risk",
            "effect of context",
            "p (Holm)",
            "images both/object/context/no",
        ],
        rows,
    )


def _preprocess(name: str | None) -> Any:
    if name != "unit":
        return name
    from ..models import Preprocess

    return Preprocess(resize=None, crop=None, mean=(0.0,) * 3, std=(1.0,) * 3, name="unit")


def _labels(text: str | None) -> list[str] | None:
    if text is None:
        return None
    path = Path(text)
    if path.suffix == ".txt" and path.is_file():
        return [line.strip() for line in path.read_text("utf-8").splitlines() if line.strip()]
    return [name.strip() for name in text.split(",")]
