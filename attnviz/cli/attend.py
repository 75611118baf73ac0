"""`attnviz attend`: what a transformer attends to in a photo or a text."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from ._app import tell
from ._options import Labels, Subject, Target, listed, one_target, takes_model

ATTEND_SCHEMA = 1


@takes_model(
    model="timm:NAME, torchvision:NAME, hf:NAME or package.module:factory (its code is run); for a "
    "text hf:NAME or a folder."
)
def attend(
    subject: Subject,
    photos: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PHOTO...]", help="Files, folders, patterns, - ; or give --text, or both."
        ),
    ] = None,
    text: Annotated[
        str | None,
        typer.Option(
            help="A text, for a text model; beside a photo what a vision-language model is asked."
        ),
    ] = None,
    random: Annotated[
        bool, typer.Option("--random", help="Random weights: nothing is fetched, nothing meant.")
    ] = False,
    layer: Annotated[
        list[str] | None, typer.Option(help="Module names of attention layers; all if left out.")
    ] = None,
    head: Annotated[
        str,
        typer.Option(
            help="A head's number, mean or max. For a photo and a text: mean, or each, which the "
            "page then has a slider for."
        ),
    ] = "mean",
    method: Annotated[
        str | None,
        typer.Option(
            "--map",
            help="rollout, cls, received, relevance ...: an attention method of `attnviz methods`. "
            "For a text: generic_relevance, rollout, attnlrp (words coloured), graph or matrix. "
            "For a photo and a text: attention, tam, rollout, gradient, or several with commas.",
        ),
    ] = None,
    target: Target = None,
    labels: Labels = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Picture to write, of several photos their folder; for a text .svg, .png or .pdf."
        ),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(help="Write an offline page to click through; of several photos one each."),
    ] = None,
    region: Annotated[
        Path | None,
        typer.Option(
            help="For a photo and a text: a mask; each word's attention to it, and how much less "
            "likely the word is without it, as a table."
        ),
    ] = None,
    grid: Annotated[
        str | None,
        typer.Option(
            metavar="ROWSxCOLUMNS",
            help="For a photo and a text: of the image tokens, where they are not known.",
        ),
    ] = None,
    most: Annotated[
        int, typer.Option("--max-new-tokens", min=1, help="For a photo and a text: tokens written.")
    ] = 40,
    stats: Annotated[
        str | None, typer.Option(help="table or json: statistics of every head over all photos.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite what is there.")] = False,
) -> None:
    """Show what a transformer attends to: a map, a page to click through, a table of its heads.

    Without --map, --html or --stats a photo gives the rollout and a text its graph. A photo and
    --text together give the words that a vision-language model writes, each with its maps.
    """
    from ._app import FAILURE, say
    from ._files import refuse_existing
    from ._photos import gather

    if not photos and text is None:
        raise typer.BadParameter("give photos or --text; both to a vision-language model")
    if stats not in (None, "table", "json"):
        raise typer.BadParameter(f"--stats {stats!r} is neither table nor json")
    if subject.model is None:
        raise typer.BadParameter(
            "--model is needed: the embedded model has no attention. For example --model "
            "timm:vit_small_patch16_224, or with --text --model hf:bert-base-uncased"
        )
    if photos and text is not None:
        from ._writing import write_words

        given = {"--layer": layer, "--target": target, "--stats": stats, "--out": out,
                 "--checkpoint": subject.checkpoint, "--head": head not in ("mean", "each"),
                 "--labels": labels}  # fmt: skip
        extra = [*(name for name, value in given.items() if value), *subject.of_photos()]
        write_words(
            photos, text, extra, subject=subject, random=random, methods=method, html=html,
            region=region, grid=grid, most=most, heads=head == "each", force=force,
        )  # fmt: skip
        return
    if region is not None or grid is not None:
        raise typer.BadParameter("--region and --grid go with a photo and --text")
    layer = listed(layer) or None
    chosen: int | str = int(head) if head.lstrip("-").isdecimal() else head
    if method is None and html is None and stats is None:
        method = "graph" if photos is None else "rollout"
    if text is not None:
        if labels:
            raise typer.BadParameter("--labels is for photos; a text model brings its own")
        ending = "svg" if method in ("graph", "matrix") else "html"
        out = out or Path("attnviz-out") / f"text.{method}.{ending}"
        if not force:
            refuse_existing([p for p in (out if method else None, html) if p is not None])
        _text(
            text, subject=subject, random=random, layers=layer, head=chosen, method=method,
            target=one_target(target), out=out, html=html, stats=stats, force=force,
        )  # fmt: skip
        return
    found, unreadable = gather(photos or [], leave_out=out)
    for _, error in unreadable:
        say(f"error: {error}")
    jobs = _jobs(found, method, out, html)
    if not force:
        refuse_existing([p for job in jobs for p in (job.picture, job.page) if p is not None])
    if jobs:
        _photos(
            jobs, subject=subject, random=random, layers=layer, head=chosen, method=method,
            targets=listed(target), labels=labels, stats=stats, force=force,
        )  # fmt: skip
    if unreadable or not jobs:
        raise typer.Exit(FAILURE)


class _Job(NamedTuple):
    """A photo, and the files that its map and its page go to."""

    photo: Path
    picture: Path | None
    page: Path | None


def _jobs(found: list[Path], method: str | None, out: Path | None, html: Path | None) -> list[_Job]:
    if (
        out is not None
        and len(found) > 1
        and out.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp", ".pdf", ".svg")
    ):
        raise typer.BadParameter(
            f"--out {str(out)!r} is one picture; for {len(found)} photos a folder"
        )
    from ._photos import result_stems

    single = len(found) == 1 and out is not None and out.suffix != ""
    folder = out if out is not None else Path("attnviz-out")
    return [
        _Job(
            photo,
            None if method is None else folder if single else folder / f"{stem}.{method}.jpg",
            html if html is None or len(found) == 1 else html.with_stem(f"{html.stem}.{stem}"),
        )
        for photo, stem in zip(found, result_stems(found), strict=True)
    ]


def _photos(
    jobs: list[_Job], *, subject: Subject, random: bool, layers: Any, head: Any,
    method: str | None, targets: list[str], labels: str | None, stats: str | None, force: bool,
) -> None:  # fmt: skip
    import torch

    from ..images import read_image
    from ..models import labels_of, read_labels, resolve_preprocess
    from ..models.prompts import image_half
    from ._console import progress, saying_what_is_kept

    draw = None if method is None else _drawer(method, head, layers)
    loaded = subject.load(pretrained=not random)
    names = read_labels(labels) if labels else labels_of(loaded.module, loaded)
    prepare = resolve_preprocess(None, loaded.module, loaded)
    place, batch, done = next(loaded.module.parameters()), [], 0
    kept = saying_what_is_kept(
        lambda: f"{done} of {len(jobs)} photos are written; name the others, or --force for all"
    )
    with kept, progress("attending", len(jobs)) as bar:
        for job in jobs:
            image = read_image(job.photo)
            tensor, geometry = prepare(image)
            inputs = tensor[None].to(place.device, place.dtype)
            if draw is not None and job.picture is not None:
                for line in draw(loaded, image, job.picture, targets, names, force):
                    bar.result(line)
            if job.page is not None:
                bar.result(_page(
                    image_half(loaded), inputs, loaded.name, layers, job.page, force,
                    image=image, geometry=geometry,
                ))  # fmt: skip
            if stats is not None:
                batch.append(inputs)
            done += 1
            bar.step()
    if batch:
        _table(image_half(loaded), torch.cat(batch), loaded.name, layers, stats)


def _drawer(method: str, head: Any, layers: Any) -> Callable[..., Iterator[str]]:
    """Return what writes the map of one photo, and says so in a line a layer."""
    import inspect as signatures

    from ..errors import MethodError
    from ..explaining import explain
    from ..methods import METHODS
    from ._files import VECTOR_FORMATS, file_bytes, write_file
    from ._photos import slug

    entry = METHODS.get(method)
    if entry.family != "attention":
        raise MethodError(
            f"{entry.name} is no map of attention (it is of the family {entry.family}); use "
            f"`attnviz explain --method {entry.name}`, or one of "
            f"{', '.join(METHODS.names('attention'))}"
        )
    options = {}
    if head != "mean" and "head" in signatures.signature(entry.fn).parameters:
        options["head"] = head
    elif head != "mean":
        raise MethodError(f"{entry.name} takes all heads together; leave --head out")

    def draw(
        loaded: Any, image: Any, goal: Path, targets: list[str], labels: Any, force: bool
    ) -> Iterator[str]:
        maps = explain(
            loaded, image, classes=targets or None, method=entry.name, layer=layers, labels=labels,
            **options,
        )  # fmt: skip
        shown = [maps] if layers is None else list(maps.values())
        for one in (each for some in shown for each in some):
            parts = [slug(one.label[0])] * (len(targets) > 1) + [one.layer] * (len(shown) > 1)
            path = goal.with_stem(".".join([goal.stem, *parts]))
            vector = path.suffix.lstrip(".").lower() in VECTOR_FORMATS
            drawn = one.figure(0) if vector else one.panel(0)
            write_file(path, file_bytes(drawn, path.suffix), force=force)
            yield f"{path}: {one.method} of {loaded.name} at {one.layer}"

    return draw


def _text(
    text: str, *, subject: Subject, random: bool, layers: Any, head: Any, method: str | None,
    target: str | None, out: Path, html: Path | None, stats: str | None, force: bool,
) -> None:  # fmt: skip
    from ..attention.text import TEXT_METHODS

    words = method in TEXT_METHODS
    if subject.of_photos():
        given = ", ".join(subject.of_photos())
        raise typer.BadParameter(f"{given} goes with photos, and --text was given; leave it out")
    if target and method not in ("generic_relevance", "attnlrp"):
        raise typer.BadParameter("--target of a text goes with --map generic_relevance or attnlrp")

    from ..errors import DataError, MethodError
    from ..models.text import load_text
    from ._files import write_file

    assert subject.model is not None  # asked for by `attend`
    if method not in (None, "graph", "matrix", *TEXT_METHODS):
        raise MethodError(
            f"--map {method!r} of a text: expected {', '.join(TEXT_METHODS)}, graph or matrix"
        )
    loaded = load_text(
        subject.model, device=subject.device, random=random, checkpoint=subject.checkpoint
    )
    inputs, tokens = loaded.encode(text)
    place = next(loaded.module.parameters()).device
    inputs = {name: value.to(place) for name, value in inputs.items()}
    if words:
        _words(loaded, text, method, layers, head, target, out, force)
    elif method is not None:
        from ..attention.views import record, token_graph, token_heatmap
        from ..render.vector import encoded

        draw = {"graph": token_graph, "matrix": token_heatmap}[method]
        found = record(loaded.module, inputs, tokens=tokens, layers=layers, name=loaded.name)
        last = found.layers[-1]
        if last.codes.shape[0] != 1:
            raise DataError(f"{last.name} attends in windows; see it with --html")
        figure = draw(
            last.weights(head)[0], last.query_tokens, last.key_tokens,
            title=f"{loaded.name}: {last.name}, head {head}",
        )  # fmt: skip
        if out.suffix.lower() not in (".svg", ".png", ".pdf"):
            raise typer.BadParameter(f"--out {str(out)!r} ends in none of .svg, .png, .pdf")
        write_file(out, encoded(figure, out.suffix), force=force)
        tell(f"{out}: attention of {loaded.name} at {last.name}, head {head}")
    if html is not None:
        tell(_page(loaded.module, inputs, loaded.name, layers, html, force, tokens=tokens))
    if stats is not None:
        _table(loaded.module, inputs, loaded.name, layers, stats)


def _words(
    loaded: Any, text: str, method: str, layers: Any, head: Any, target: str | None,
    out: Path, force: bool,
) -> None:  # fmt: skip
    """Print the text with its words coloured, and write it as a page."""
    from ..attention.text import explain_text
    from ._files import write_file

    if layers or head != "mean":
        raise typer.BadParameter(f"--map {method} takes all layers and heads of a text together")
    if out.suffix.lower() != ".html":
        raise typer.BadParameter(f"--out {str(out)!r}: words coloured are written as .html")
    chosen: Any = int(target) if target is not None and target.isdecimal() else target
    found = explain_text(loaded.module, loaded.tokenizer, text, target=chosen, method=method)
    write_file(out, found.html(), force=force)
    print(found.ansi())
    tell(f"{out}: {method} of {loaded.name} for {found.label}")


def _page(
    module: Any, inputs: Any, name: str, layers: Any, html: Path, force: bool, **about: Any
) -> str:  # fmt: skip
    """Write the page of one input; returns what it holds in words."""
    from ..attention.views import record, save_page
    from ._app import say

    found = record(module, inputs, layers=layers, name=name, **about)
    for text in found.missed:
        say(f"not read: {text}")
    return f"{save_page(found, html, force=force)}: page of {len(found.layers)} layers"


def _table(module: Any, inputs: Any, name: str, layers: Any, stats: str | None) -> None:
    """Print the statistics of every head."""
    from ..attention.statistics import COLUMNS, head_table
    from ._console import print_json, print_table

    table = head_table(module, inputs)
    rows = table.rows()
    if layers:
        rows = [r for r in rows if any(r["name"] == n or r["name"].endswith(n) for n in layers)]
    if stats == "json":
        print_json("attend", ATTEND_SCHEMA, model=name, distance_unit=table.unit, heads=rows)
        return
    used = [c for c in COLUMNS if any(r[c] is not None for r in rows)]
    header = [f"{c} ({table.unit})" if c == "distance" else c for c in used]
    print_table(header, [[_cell(r[c]) for c in used] for r in rows])


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if isinstance(value, float) else str(value)
