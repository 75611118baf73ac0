"""`attnviz explain`: heatmaps of photos, as pictures and as a list or JSON."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from ._app import FAILURE, one_line, say, tell
from ._options import Labels, Layer, Subject, listed, named_values, takes_model

EXPLAIN_SCHEMA = 1


@takes_model()
def explain(
    photos: Annotated[
        list[str],
        typer.Argument(
            metavar="PHOTO...", help="Files, folders, patterns, or - for paths on stdin."
        ),
    ],
    subject: Subject,
    method: Annotated[
        list[str], typer.Option(help="A name of `attnviz methods`, or several with commas.")
    ] = ["gradcam"],  # noqa: B006  (typer copies it)
    options: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="An option of the methods, such as masks=500 (rise), steps=100 or baseline=blur "
            "(integrated_gradients); may be repeated. An unknown one lists them.",
        ),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            help="Class index or label; or contrast:A,B, finer:A, probability:A, "
            "region:mask.png[@A], pixel:X,Y[@A], embedding:photo.jpg, class:A; text:'a boat' for "
            "CLIP and SigLIP; token:boat[@PROMPT] for captioners. The predicted class if left out. "
            "Several, with commas or repeated, give several maps from one forward pass; a label "
            "with a comma is class:LABEL."
        ),
    ] = None,
    versus: Annotated[
        str | None,
        typer.Option(help="Explain the target rather than this class: the difference of logits."),
    ] = None,
    layer: Layer = None,
    labels: Labels = None,
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("attnviz-out"),
    panel: Annotated[
        bool, typer.Option("--panel", help="Original, overlay and contours in one figure.")
    ] = False,
    grid: Annotated[
        bool, typer.Option("--grid", help="Also all photos and maps in one picture, grid.FORMAT.")
    ] = False,
    picture_format: Annotated[
        str, typer.Option("--format", help="jpg, png, webp; or pdf, svg for papers.")
    ] = "jpg",
    colormap: Annotated[
        str | None, typer.Option(help="Any of matplotlib's; embers, or coolwarm if signed.")
    ] = None,
    alpha: Annotated[
        float | None, typer.Option(min=0, max=1, help="Opacity of the highest value; 0.7.")
    ] = None,
    scale: Annotated[
        str | None,
        typer.Option(help="minmax, max (from 0), signed, none, or percentile:1,99."),
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write a page of all photos and maps, to sort and enlarge.")
    ] = None,
    shards: Annotated[
        bool,
        typer.Option(
            "--shards",
            help="Raw maps of a whole data set (class folders, COCO, VOC, CSV ...) in place of "
            "pictures, with an index; the same command goes on where it was stopped.",
        ),
    ] = False,
    parquet: Annotated[
        bool, typer.Option("--parquet", help="Of --shards the index as a Parquet table, too.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON document on stdout instead of lines.")
    ] = False,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Photos a forward pass; chosen if left out.")
    ] = None,
    amp: Annotated[bool, typer.Option("--amp", help="Half-precision autocast.")] = False,
    compile: Annotated[
        bool,
        typer.Option("--compile", help="Compile the model: pays off from thousands of photos on."),
    ] = False,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Leave out photos whose pictures are there, and no older than photo and weights.",
        ),
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite pictures.")] = False,
) -> None:
    """Show the regions of photos that are associated with a class score.

    An unreadable photo is reported and skipped, and the exit code is then 1.
    """
    from ..batching import MOST
    from ..images import PICTURE_FORMATS
    from ..methods.progress import watched
    from ..processes import current
    from ._console import counted, print_json, progress, saying_what_is_kept
    from ._explaining import (
        DrawOptions,
        PhotoFiles,
        described,
        explain_photos,
        grid_picture,
        method_options,
        methods_named,
        targets_named,
        write_page,
    )
    from ._files import VECTOR_FORMATS, file_bytes, refuse_existing, write_file
    from ._photos import gather, result_stems, slug
    from ._pipeline import Failed

    methods = methods_named(method)
    given = method_options(methods, named_values(options or (), "masks=500"))
    given |= {name: True for name, on in (("amp", amp), ("compile", compile)) if on}
    if shards:
        from ._sharding import write_shards

        wanted = [f"contrast:{t},{versus}" if versus else t for t in listed(target)]
        write_shards(
            subject, photos, out, methods, wanted, layer=layer, labels=labels,
            batch_size=batch_size, force=force, parquet=parquet, **given,
        )  # fmt: skip
        return
    if parquet:
        raise typer.BadParameter("--parquet is the index of --shards; give both")
    known = (*PICTURE_FORMATS, *VECTOR_FORMATS)
    if picture_format not in known:
        raise typer.BadParameter(f"--format {picture_format!r} is not one of {', '.join(known)}")
    look = DrawOptions(panel, colormap, alpha, scale)
    look.check()
    target = listed(target)
    targets = targets_named(target, versus)
    group = current()
    found, unreadable = group.once(lambda: gather(photos, leave_out=out))
    names = [slug(t) for t in target]
    if len(set(names)) < len(names):
        names = [f"{i + 1}-{name}" for i, name in enumerate(names)]
    jobs = [
        PhotoFiles(
            photo,
            tuple(
                out / ".".join([stem, m, *([t] if len(names) > 1 else []), *kind, picture_format])
                for m in methods
                for t in (names if len(names) > 1 else [""])
            ),
        )
        for kind in [["panel"] if panel else []]
        for photo, stem in zip(found, result_stems(found), strict=True)
    ]
    if resume:
        drawn = group.once(lambda: [j for j in jobs if all(p.exists() for p in j.pictures)])
        stale = group.once(lambda: [j for j in drawn if j.older_than(subject.checkpoint, labels)])
        there = [job for job in drawn if job not in stale]
        jobs = [job for job in jobs if job not in there]
        say(f"{len(there)} of {len(found)} photos have their pictures and are left out")
        if stale:
            say(f"{len(stale)} have changed since, or the weights have, and are drawn anew")
    sheet = out / f"grid.{picture_format}"
    extra = [*([html] if html else []), *([sheet] if grid else [])]
    if not force:
        files = [*extra, *(p for job in jobs for p in job.pictures if not resume)]
        group.once(lambda: refuse_existing(files))
    failures = [{"photo": name, "error": str(error)} for name, error in unreadable]
    for failure in failures:
        say(f"error: {failure['error']}")
    if not jobs:
        if resume and found and not failures:
            return
        if not failures:
            say(f"error: no photos, apart from results in {str(out)!r}")
        raise typer.Exit(FAILURE)
    loaded = subject.load()

    results, shown, done = [], [], 0
    # one bar at a time: of the photos, or of a single photo's passes
    passes = watched(counted) if len(jobs) == 1 else nullcontext()
    kept = saying_what_is_kept(
        lambda: (
            f"{done} of {len(jobs)} photos are written to {str(out)!r}; the same with --resume "
            "goes on"
        )
    )
    with kept, passes, progress("explaining", len(jobs)) as bar:
        block = batch_size or MOST
        mine = [jobs[i] for i in group.mine(len(jobs), block)]
        outcomes = explain_photos(
            loaded, mine, methods=methods, targets=targets, layer=layer,
            labels=labels, options=given, look=look, batch_size=batch_size, force=force or resume,
            keep=bool(extra),
        )  # fmt: skip
        if group.count > 1:
            outcomes = group.in_order(list(outcomes), len(jobs), block)
        for outcome in outcomes:
            bar.step()
            if isinstance(outcome, Failed):
                failures.append(
                    {"photo": str(outcome.item.photo), "error": one_line(outcome.error)}
                )
                bar.note(f"error: {one_line(outcome.error)}")
                continue
            done += 1
            if extra:
                shown.append(outcome)
            if as_json:
                results += [record.as_dict() for record in outcome]
            else:
                for record in outcome:
                    bar.result(record.line())
    lines = []
    if grid and shown and group.first:
        drawn = grid_picture(shown, look, sheet.suffix)
        write_file(sheet, file_bytes(drawn, sheet.suffix), force=force)
        lines.append(f"{sheet}: grid of {len(shown)} photo{'s' * (len(shown) > 1)}")
    if html is not None and shown and group.first:
        lines.append(write_page(html, shown, model=loaded.name, force=force))
    for line in lines:
        say(line) if as_json else tell(line)
    if as_json:
        print_json(
            "explain", EXPLAIN_SCHEMA, model=loaded.name, preprocess=described(loaded),
            results=results, failed=failures,
        )  # fmt: skip
    if failures:
        say(f"{len(failures)} of {len(jobs) + len(unreadable)} photos failed; the rest is written")
        raise typer.Exit(FAILURE)
