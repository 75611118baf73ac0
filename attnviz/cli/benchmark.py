"""`attnviz benchmark`: methods judged on the same images, beside controls."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ._app import FAILURE, say, tell
from ._options import AsJson, Labels, Layer, Subject, Target, one_target, takes_model

if TYPE_CHECKING:
    from ..benchmark import Settings
    from ..data import Sample

BENCHMARK_SCHEMA = 1


@takes_model()
def benchmark(
    subject: Subject,
    photos: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PHOTOS|DATASET",
            help="Files, folders, patterns or - for paths on stdin; or one annotated dataset "
            "(COCO JSON, VOC folder, CSV, folder with index.json).",
        ),
    ] = None,
    methods: Annotated[
        str, typer.Option(help="Names of `attnviz methods`, with commas.")
    ] = "gradcam,layercam,hirescam",
    metrics: Annotated[
        str | None,
        typer.Option(
            help="Metrics, with commas; deletion, insertion, road and average_drop if left out, "
            "and localisation where there are masks or boxes. --metrics list shows all."
        ),
    ] = None,
    baselines: Annotated[
        str,
        typer.Option(
            help="What removed pixels become, with commas: the first is reported, the others "
            "check whether the ranking survives."
        ),
    ] = "mean,zero,blur,imputed",
    steps: Annotated[int, typer.Option(min=1, help="Intervals of a curve.")] = 32,
    score: Annotated[str, typer.Option(help="probability or logit.")] = "probability",
    substrate: Annotated[str, typer.Option(help="pixel, or patch to remove squares.")] = "pixel",
    controls: Annotated[
        bool, typer.Option("--controls/--no-controls", help="Judge maps that know nothing, too.")
    ] = True,
    mask: Annotated[
        str | None, typer.Option(help="Class of the dataset whose place counts.")
    ] = None,
    target: Target = None,
    layer: Layer = None,
    labels: Labels = None,
    out: Annotated[
        Path, typer.Option(help="Folder for summary.json, values.csv and index.html.")
    ] = Path("attnviz-benchmark"),
    seed: Annotated[int, typer.Option(help="Of everything that is drawn at random.")] = 0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what it will cost, and stop.")
    ] = False,
    as_json: AsJson = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Images a forward pass.")] = 32,
    force: Annotated[
        bool, typer.Option("--force", help="Start anew where --out holds another comparison.")
    ] = False,
) -> None:
    """Judge methods on the same images, beside controls, with intervals and paired tests.

    A run that was stopped goes on where it stopped when the same command is given again.
    """
    if metrics == "list":
        _list_metrics()
        return
    if not photos:
        raise typer.BadParameter("PHOTOS or a DATASET are needed: files, folders or patterns")
    from ..benchmark import Runner, finish, lines, open_store
    from ..benchmark.export import as_dict
    from ..data.identity import sample_stamp
    from ..models import read_labels
    from ..processes import current
    from ._console import print_json, progress, saying_what_is_kept

    subjects, unreadable = current().once(lambda: _subjects(photos, mask, out))
    for name, error in unreadable:
        say(f"error: {name}: {error}")
    if not subjects:
        say("error: no images to compare on")
        raise typer.Exit(FAILURE)
    settings = _settings(
        subjects, methods, metrics, baselines, steps=steps, score=score,
        substrate=substrate, controls=controls, target=_class_named(target), layer=layer, seed=seed,
    )  # fmt: skip
    runner = Runner(
        subject.load(), subjects, settings,
        labels=read_labels(labels) if labels else None, batch_size=batch_size,
    )  # fmt: skip
    for name, why in runner.refused.items():
        say(f"warning: {name} is left out: {why}")
    cost = runner.cost()
    if dry_run:
        if as_json:
            print_json("benchmark-cost", BENCHMARK_SCHEMA, **cost.as_dict(len(subjects)))
        else:
            tell(f"{len(subjects)} images: {cost.describe(len(subjects))}")
        return
    with current().locked(out):
        store = open_store(out, runner.plan(), force=force)
        ahead = [s for s in subjects if not store.has(s.id, sample_stamp(s))]
        if len(ahead) < len(subjects):
            say(f"{len(subjects) - len(ahead)} of {len(subjects)} images are done already")
        say(f"{len(ahead)} images to judge: {cost.describe(len(ahead))}")
        failed: dict[str, str] = {}
        kept = saying_what_is_kept(
            lambda: (
                f"{sum(store.has(s.id, sample_stamp(s)) for s in subjects)} of {len(subjects)} "
                f"images are judged and kept in {str(out)!r}; the same command goes on"
            )
        )
        with kept, progress("comparing", len(subjects)) as bar:
            for done in runner.run(store, out / "pictures"):
                bar.step()
                if done.error is not None:
                    failed[done.id] = done.error
                    bar.note(f"error: {done.id}: {done.error}")
        summary = finish(runner, store, failed, out)
    if as_json:
        document = {k: v for k, v in as_dict(summary).items() if k not in _JSON_HEAD}
        print_json("benchmark", BENCHMARK_SCHEMA, out=str(out.absolute()), **document)
    else:
        for line in lines(summary):
            tell(line)
        tell("")
        tell(f"{out / 'index.html'}, {out / 'values.csv'}, {out / 'summary.json'}")
    if summary.failed or unreadable:
        say(f"{len(summary.failed) + len(unreadable)} images failed; the rest is judged")
        raise typer.Exit(FAILURE)


_JSON_HEAD = ("schema", "schema_version", "attnviz")


def _words(given: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in given.split(",") if word.strip())


def _class_named(target: list[str] | None) -> str | None:
    """Return the class that is judged: other kinds of target have no curve to be judged by."""
    name = one_target(target)
    if name is None or ":" not in name:
        return name
    kind, _, rest = name.partition(":")
    if kind.strip().lower() != "class":
        raise typer.BadParameter(f"--target {name!r}: methods are judged on a class, class:LABEL")
    return rest.strip()


def _settings(
    subjects: list[Sample],
    methods: str,
    metrics: str | None,
    baselines: str,
    **options: Any,
) -> Settings:
    from ..benchmark import Settings, default_metrics
    from ..errors import MethodError, MetricError

    if metrics is None:
        masks = any(s.masks for s in subjects)
        names = default_metrics(masks, masks)
    else:
        names = _words(metrics)
    if options["score"] not in ("probability", "logit"):
        raise typer.BadParameter(f"--score {options['score']!r} is not probability or logit")
    if options["substrate"] not in ("pixel", "patch"):
        raise typer.BadParameter(f"--substrate {options['substrate']!r} is not pixel or patch")
    try:
        return Settings(_words(methods), names, _words(baselines), **options)
    except (MetricError, MethodError) as error:
        raise typer.BadParameter(str(error)) from error


def _subjects(
    given: list[str], mask: str | None, out: Path
) -> tuple[list[Sample], list[tuple[str, str]]]:
    """Return the images: of a dataset where the one argument is one, else photos."""
    from ..benchmark import from_dataset, from_photos
    from ._photos import gather

    if len(given) == 1 and _is_dataset(Path(given[0])):
        from ..data import open_dataset

        return from_dataset(open_dataset(given[0]), mask), []
    if mask is not None:
        raise typer.BadParameter(
            "--mask needs an annotated dataset (COCO JSON, VOC folder, CSV, folder with "
            "index.json); these are photos"
        )
    found, unreadable = gather(given, leave_out=out)
    return from_photos(found), [(name, str(error)) for name, error in unreadable]


def _is_dataset(path: Path) -> bool:
    if not path.exists():
        return False
    from ..data import READERS

    # a folder of folders is a folder of photos here: its classes say nothing of places
    return any(r.meta["detect"](path) for r in READERS if r.name != "imagefolder")


def _list_metrics() -> None:
    from ..metrics import METRICS
    from ._console import print_table

    better = {True: "high", False: "low", None: "-"}
    print_table(
        ["metric", "family", "better", "needs", "what it is"],
        [
            [
                e.name,
                e.family,
                better[e.meta["higher_is_better"]],
                ", ".join(e.meta["needs"]) or "-",
                e.summary,
            ]
            for e in METRICS
        ],
    )
