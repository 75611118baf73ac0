"""`attnviz audit`: does a model know the object, or what usually surrounds it?"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from ._app import FAILURE, GATE_FAILED, say, tell
from ._options import Labels, MasksFrom, Subject, listed, takes_model


@takes_model()
def audit(
    data: Annotated[
        Path, typer.Option(help="Images with labels, and masks or boxes: a folder, COCO, VOC, CSV.")
    ],
    subject: Subject,
    object: Annotated[
        str | None, typer.Option(help="The class that the model should read.")
    ] = None,
    context: Annotated[
        str | None,
        typer.Option(
            help="What usually surrounds it; background, all that is not the object, if left out. "
            "text:water|land: where --clip sees the first prompt rather than the others."
        ),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            help="The model's classes for the object, with commas or repeated; the object's name."
        ),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            help="The model's classes for the data's: boat=speedboat|lifeboat,..., or a JSON file."
        ),
    ] = None,
    masks: Annotated[
        Path | None,
        typer.Option(
            help="Folder of masks that mirror the images' names, or a COCO or Label Studio file; "
            "masks of some images will do."
        ),
    ] = None,
    masks_from: MasksFrom = None,
    boxes: Annotated[bool, typer.Option("--boxes", help="Regions from boxes alone.")] = False,
    groups: Annotated[bool, typer.Option("--groups", help="No regions: groups alone.")] = False,
    context_masks: Annotated[
        str | None,
        typer.Option(help="package.module:function, photo -> mask of the context: a segmenter."),
    ] = None,
    clip: Annotated[
        Path | None,
        typer.Option(help="Folder of a CLIP model that tells which images show it, or where."),
    ] = None,
    prompts: Annotated[
        str | None,
        typer.Option(
            help="For --clip: what shows the context | what does not; names for concepts."
        ),
    ] = None,
    question: Annotated[
        str | None,
        typer.Option(
            help="For a vision-language model: what it is asked of each photo, such as 'Is there a "
            "{class} in the picture?'. --target is then the words of the answer that mean the "
            "object: its name, or yes where the question names it."
        ),
    ] = None,
    answer: Annotated[
        str, typer.Option(help="With --question: how the answer starts, up to that word.")
    ] = "",
    split: Annotated[str | None, typer.Option(help="Audit one split of the data only.")] = None,
    against: Annotated[
        str | None,
        typer.Option(help="A second model (after), or a checkpoint of the same architecture."),
    ] = None,
    all_classes: Annotated[
        bool, typer.Option("--all-classes", help="Rank all class pairs by risk of confusion.")
    ] = False,
    discover: Annotated[
        bool,
        typer.Option(
            "--discover",
            help="Cluster what is called the object by what its maps cover; needs no --context.",
        ),
    ] = False,
    by: Annotated[
        str,
        typer.Option(
            help="For --discover: features or maps, which part the images; or concepts of the "
            "layer, each audited as the context, and named by --clip and --prompts 'water|land|...'"
        ),
    ] = "features",
    trained_on: Annotated[
        Path | None, typer.Option(help="Training data; an image of it in DATA is refused.")
    ] = None,
    skip_identical: Annotated[
        bool,
        typer.Option("--skip-identical", help="Leave out images that are the same as another."),
    ] = False,
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
    labels: Labels = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="Maps of the CAM family, with commas: gradcam,hirescam,layercam. With --question "
            "of words: attention,gradient,tam,rollout."
        ),
    ] = None,
    fill: Annotated[
        str, typer.Option(help="How regions are emptied, with commas.")
    ] = "inpaint,blur,mean",
    layer: Annotated[str | None, typer.Option(help="A name of `attnviz layers`.")] = None,
    examples: Annotated[int, typer.Option(min=0, help="Images shown in the report.")] = 12,
    batch_size: Annotated[int, typer.Option(min=1, help="Inputs a forward pass.")] = 32,
    seed: Annotated[int, typer.Option(help="Of donors and bootstrap.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where a run stopped.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the report.")] = False,
) -> None:
    """Audit a classifier for reading the context instead of the object: boats, or water?

    Prints the verdict with its uncertainty and writes a report that opens offline.
    """
    from ..audit.discovery import BY
    from ..audit.pictures import BACKGROUND
    from ..data import open_dataset
    from ..models import read_labels
    from ..processes import current
    from ..report.page import FILES
    from ._classes import read_classes
    from ._console import print_json
    from ._discovering import find_contexts, mask_function, rank, told_by_words, write
    from ._files import refuse_existing
    from ._segmenting import by_prompts, dense, segmented
    from ._writing import asked

    if (masks is not None) + boxes + groups > 1:
        raise typer.BadParameter("--masks, --boxes and --groups exclude one another")
    if not all_classes and object is None:
        raise typer.BadParameter("--object is needed, or --all-classes")
    if by not in BY or (by != BY[0] and not discover):
        raise typer.BadParameter(f"--by {by!r} is not one of {', '.join(BY)}, with --discover")
    discovery_alone = discover and context is None
    if masks_from is not None and (boxes or groups or object is None):
        raise typer.BadParameter("--masks-from makes masks of --object: not with --boxes, --groups")
    by_text = context is not None and context.startswith("text:")
    if by_text and (clip is None or prompts is not None or groups):
        raise typer.BadParameter(
            "--context text:... needs --clip, the folder of a CLIP model (tiny-clip for generated "
            "scenes), and neither --prompts nor --groups"
        )
    named = discovery_alone and by == "concepts"
    if not by_text and (
        (clip is None) != (prompts is None) or (clip and context is None and not named)
    ):
        raise typer.BadParameter("--clip, --prompts and --context belong together")
    if fail_above is not None and not 0 <= fail_above <= 1:
        raise typer.BadParameter(f"--fail-above {fail_above} is no share from 0 to 1")
    if (all_classes or discovery_alone) and (against is not None or fail_above is not None):
        raise typer.BadParameter(
            "--against and --fail-above need an audit: --object, and --context beside --discover"
        )
    if answer and question is None:
        raise typer.BadParameter("--answer goes with --question")
    if question is not None:
        given = {"--layer": layer, "--labels": labels, "--checkpoint": subject.checkpoint,
                 "--logits": subject.logits, "--all-classes": all_classes,
                 "--discover": discover}  # fmt: skip
        extra = [*(name for name, value in given.items() if value), *subject.of_photos()]
        if extra:
            raise typer.BadParameter(f"{', '.join(extra)}: not with --question")
    group = current()
    if group.count > 1 and (all_classes or discover):
        raise typer.BadParameter("--all-classes and --discover run in one process")
    if not force and not all_classes:
        files = ("discovery.html", "discovery.json") if discovery_alone else FILES
        group.once(lambda: refuse_existing([out / name for name in files]))
    members = read_classes(classes)
    dataset: Any = open_dataset(data, masks=masks, split=split)
    if by_text:
        assert context is not None
        assert clip is not None
        dataset, context = by_prompts(dataset, context.removeprefix("text:"), clip, subject.device)
    elif clip is not None and not named:
        dataset = told_by_words(dataset, str(context), clip, str(prompts), batch_size)
    if masks_from is not None:
        around = [context] if context not in (None, BACKGROUND) else []
        dataset = segmented(
            dataset, masks_from, [object, *around], subject.device, everywhere=around
        )
    loaded = subject.load() if question is None else asked(subject, question, answer)
    common: dict[str, Any] = {
        "labels": read_labels(labels) if labels else None,
        "batch_size": batch_size,
    }  # fmt: skip
    if all_classes:
        rank(loaded, dataset, as_json, common | {"classes": members})
        return
    if context is None and not discover:
        context = BACKGROUND
        say(f"no --context is named: all that is not {object} is its context ({context})")
    options = common | {
        "object": object, "context": context,
        "target": [int(t) if t.isdecimal() and not question else t for t in listed(target)]
        if target
        else members.get(str(object)),
        "regions": "boxes" if boxes else "groups" if groups else "auto",
        "identical": "skip" if skip_identical else "refuse",
        "context_masks": mask_function(context_masks) if context_masks else None,
        "trained_on": open_dataset(trained_on) if trained_on else None,
        "allow_empty_groups": allow_empty_groups, "methods": method.split(",") if method else None,
        "fills": fill.split(","), "layer": layer, "examples": examples, "seed": seed,
        "resume": resume,
    }  # fmt: skip
    models: list[tuple[Any, str]] = [(loaded, "journal.jsonl")]
    if against is not None:
        second = Path(against)
        after = asked(replace(subject, model=against), question, answer) if question else (
            replace(subject, checkpoint=second).load() if second.exists()
            else Subject(model=against, **subject.beside()).load()
        )  # fmt: skip
        models.append((after, "journal-after.jsonl"))
    with group.locked(out):
        if discovery_alone:
            words = dense(str(prompts), clip, subject.device) if clip is not None else None
            contexts = find_contexts(loaded, dataset, options, by=by, words=words)
            write(contexts, out, as_json=as_json, force=force)
            return
        found, results, paths = _judge(
            models, dataset, options, out, by if discover else None, force
        )
    gate = None if fail_above is None else _gate(results[-1], fail_above)
    if as_json:
        document = found.as_dict()
        head = {k: document.pop(k) for k in ("schema", "schema_version")}
        print_json(
            head["schema"].removeprefix("attnviz."), head["schema_version"], **document,
            files={k: str(p) for k, p in paths.items()},
            gate_failed=gate is not None and gate[0], gate=None if gate is None else gate[1],
        )  # fmt: skip
    else:
        _print(found, results, paths)
    gone = max(len(r.settings["gone"]) for r in results)
    if gone:
        say(f"error: {gone} of {len(dataset)} images could not be read; the report is of the rest")
    if gate is not None:
        say(f"gate: {gate[1]}")
        if gate[0] is not False:
            raise typer.Exit(GATE_FAILED if gate[0] else FAILURE)
    if gone:
        raise typer.Exit(FAILURE)


def _gate(result: Any, above: float) -> tuple[bool | None, str]:
    """Return whether the gate fails, None where that is not known, and what was compared."""
    severity = result.severity
    of = f"the {result.context}'s share of the evidence for {result.object}"
    if severity is None:
        return None, f"severity ({of}) is not known, so it cannot be compared with {above:g}"
    failed = result.fails(above)
    level = f"{100 * severity.level:g} %"
    return failed, (
        f"the lower end of the severity's {level} interval, {severity.low:.3f}, is "
        f"{'above' if failed else 'not above'} {above:g} (--fail-above): "
        f"{'fails' if failed else 'passes'}. Severity {severity.value:.3f} is {of}, in "
        f"{result.images} images"
    )


def _print(found: Any, results: list[Any], paths: dict[str, Path]) -> None:
    from ..audit.summary import percent
    from ._console import print_table

    if len(results) == 2:
        for word, each in zip(("before", "after"), results, strict=True):
            tell(f"{word:<8} {each.verdict.text}")
            tell(f"why      {each.verdict.why}")
        tell(f"change   {found.text}")
    else:
        tell(f"verdict  {results[0].verdict.text}")
        tell(f"why      {results[0].verdict.why}")
    rows = [
        [c.name, str(c.images), *(percent(a.cells[i].right) if c.images else "-" for a in results)]
        for i, c in enumerate(results[0].cells)
    ]
    right = ["right before", "right after"] if len(results) == 2 else ["right"]
    print_table(["group", "images", *right], rows)
    _print_places(results[-1])
    if results[-1].discovery is not None:
        from ._discovering import print_clusters

        print()
        print_clusters(results[-1].discovery)
    tell(f"report   {paths['report'].absolute()}")


def _print_places(result: Any) -> None:
    """Print where maps and attention lie where both object and context are, beside chance."""
    from ..audit.summary import percent
    from ._console import print_table

    both = next(c.name for c in result.cells if c.object and c.context)
    places = [p for p in result.places if p.group == both]
    if not places:
        return
    names = {"object": result.object, "context": result.context, "elsewhere": "elsewhere"}
    if any(p.region == "text" for p in places):
        names["text"] = "text"
    rows = [
        [method, *(next((percent(p.energy) + ("" if region == "text" else
                                              f" on {100 * p.area:.0f} %") for p in places
                         if (p.method, p.region) == (method, region)), "-") for region in names)]
        for method in dict.fromkeys(p.method for p in places)
    ]  # fmt: skip
    print()
    tell(f"where it looks in '{both}', each beside the share of the area")
    print_table(["map", *names.values()], rows)


def _judge(
    models: list[tuple[Any, str]], dataset: Any, options: dict[str, Any], out: Path,
    by: str | None, force: bool,
) -> tuple[Any, list[Any], dict[str, Path]]:  # fmt: skip
    """Audit each model with a journal of its own in `out`, compare two, and write the report.

    `by` is how contexts are discovered, None: not at all.
    """
    from ..audit import compare, confusion
    from ..audit.journal import journals
    from ..processes import current
    from ._console import progress, saying_what_is_kept
    from ._discovering import find_contexts

    group = current()
    if not options["resume"]:
        for _, name in models:
            _fresh(journals(out / name, group.count)[group.rank], force)
    results = []
    for each, name in models:
        seen = [0]
        kept = saying_what_is_kept(
            lambda seen=seen: (
                f"{seen[0]} of {len(dataset)} images are judged and kept in "
                f"{str(out)!r}; the same with --resume goes on"
            )
        )
        with kept, progress("auditing", len(dataset)) as bar:

            def step(done: int, total: int, seen: list[int] = seen, bar: Any = bar) -> None:
                for _ in range(done - seen[0]):
                    bar.step()
                seen[0] = done

            results.append(confusion(each, dataset, journal=out / name, progress=step, **options))
    if by is not None:
        contexts = find_contexts(models[-1][0], dataset, options, by=by)
        results[-1] = replace(results[-1], discovery=contexts)
    found: Any = results[0] if len(models) == 1 else compare(*results)
    paths = group.once(lambda: found.save(out, force=force))
    for _, name in models:
        journals(out / name, group.count)[group.rank].unlink(missing_ok=True)
    return found, results, paths


def _fresh(journal: Path, force: bool) -> None:
    if journal.exists() and not force:
        from ..errors import OutputExists

        raise OutputExists(
            f"{str(journal)!r} holds an audit that was stopped; go on with --resume, or start "
            "over with --force"
        )
    journal.unlink(missing_ok=True)
