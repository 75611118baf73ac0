"""`attnviz attend`: what a transformer attends to in a photo or a text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ._options import Subject, takes_model

ATTEND_SCHEMA = 1


@takes_model(
    model="timm:NAME, torchvision:NAME, hf:NAME or package.module:factory (its code is run); for a "
    "text hf:NAME or a folder."
)
def attend(
    subject: Subject,
    photo: Annotated[
        Path | None, typer.Argument(metavar="[PHOTO]", help="A photo; or give --text.")
    ] = None,
    text: Annotated[str | None, typer.Option(help="A text, for a text model.")] = None,
    random: Annotated[
        bool, typer.Option("--random", help="Random weights: nothing is fetched, nothing meant.")
    ] = False,
    layer: Annotated[
        list[str] | None, typer.Option(help="Module names of attention layers; all if left out.")
    ] = None,
    head: Annotated[str, typer.Option(help="A head's number, mean or max.")] = "mean",
    method: Annotated[
        str | None,
        typer.Option(
            "--map",
            help="rollout, cls, received, relevance ...: an attention method of `attnviz methods`. "
            "For a text: generic_relevance, rollout, attnlrp (words coloured), graph or matrix.",
        ),
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="Class index or label, for maps that have a class.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Picture to write; for a text .svg, .png or .pdf.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write one offline page to click through.")
    ] = None,
    stats: Annotated[
        str | None, typer.Option(help="table or json: statistics of every head, on stdout.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite what is there.")] = False,
) -> None:
    """Show what a transformer attends to: a map, a page to click through, a table of its heads.

    Without --map, --html or --stats a photo gives the rollout and a text its graph.
    """
    from ._files import refuse_existing

    if (photo is None) == (text is None):
        raise typer.BadParameter("give a photo or --text, one of them")
    if stats not in (None, "table", "json"):
        raise typer.BadParameter(f"--stats {stats!r} is neither table nor json")
    if subject.model is None:
        raise typer.BadParameter(
            "--model is needed: the embedded model has no attention. For example --model "
            "timm:vit_small_patch16_224, or with --text --model hf:bert-base-uncased"
        )
    chosen: int | str = int(head) if head.lstrip("-").isdecimal() else head
    if method is None and html is None and stats is None:
        method = "rollout" if photo is not None else "graph"
    if method is not None and out is None:
        out = Path("attnviz-out") / (
            f"{photo.stem}.{method}.jpg"
            if photo is not None
            else f"text.{method}.{'svg' if method in ('graph', 'matrix') else 'html'}"
        )
    written = [path for path in (out if method else None, html) if path is not None]
    if not force:
        refuse_existing(written)
    show = _photo if photo is not None else _text
    show(
        photo if photo is not None else text, subject=subject, random=random, layers=layer,
        head=chosen, method=method, target=target, out=out, html=html, stats=stats, force=force,
    )  # fmt: skip


def _photo(
    photo: Path, *, subject: Subject, random: bool, layers: Any, head: Any, method: str | None,
    target: str | None, out: Path | None, html: Path | None, stats: str | None, force: bool,
) -> None:  # fmt: skip
    from ..images import read_image
    from ..methods import METHODS
    from ..models import resolve_preprocess

    image = read_image(photo)
    loaded = subject.load(pretrained=not random)
    tensor, geometry = resolve_preprocess(None, loaded.module, loaded)(image)
    place = next(loaded.module.parameters())
    inputs = tensor[None].to(place.device, place.dtype)
    if method is not None:
        from ..errors import MethodError
        from ..explaining import explain
        from ..images import picture_bytes
        from ._files import write_file

        entry = METHODS.get(method)
        if entry.family != "attention":
            raise MethodError(
                f"{entry.name} is no map of attention (it is of the family {entry.family}); use "
                f"`attnviz explain --method {entry.name}`, or one of "
                f"{', '.join(METHODS.names('attention'))}"
            )
        import inspect as signatures

        options = {}
        if head != "mean" and "head" in signatures.signature(entry.fn).parameters:
            options["head"] = head
        elif head != "mean":
            raise MethodError(f"{entry.name} takes all heads together; leave --head out")
        maps = explain(
            loaded, image, target=target, method=entry.name, layer=layers,
            **options,
        )  # fmt: skip
        shown = [maps] if layers is None else list(maps.values())
        for one in shown:
            path = out if len(shown) == 1 else out.with_stem(f"{out.stem}.{one.layer}")
            write_file(path, picture_bytes(one.panel(0), path.suffix), force=force)
            print(f"{path}: {one.method} of {loaded.name} at {one.layer}")
    _page_and_table(
        loaded.module, inputs, loaded.name, layers, html, stats, force,
        target=target, labels=loaded.labels, image=image, geometry=geometry,
    )  # fmt: skip


def _text(
    text: str, *, subject: Subject, random: bool, layers: Any, head: Any, method: str | None,
    target: str | None, out: Path | None, html: Path | None, stats: str | None, force: bool,
) -> None:  # fmt: skip
    from ..attention.text import TEXT_METHODS

    words = method in TEXT_METHODS
    if subject.states_preprocessing:
        raise typer.BadParameter("preprocessing is for photos, and --text was given; leave it out")
    if target and method not in ("generic_relevance", "attnlrp"):
        raise typer.BadParameter("--target of a text goes with --map generic_relevance or attnlrp")

    import io

    from ..errors import DataError, MethodError
    from ..models.text import load_text
    from ._files import write_file

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

        draw = {"graph": token_graph, "matrix": token_heatmap}[method]
        found = record(loaded.module, inputs, tokens=tokens, layers=layers, name=loaded.name)
        last = found.layers[-1]
        if last.codes.shape[0] != 1:
            raise DataError(f"{last.name} attends in windows; see it with --html")
        figure = draw(
            last.weights(head)[0], last.query_tokens, last.key_tokens,
            title=f"{loaded.name}: {last.name}, head {head}",
        )  # fmt: skip
        buffer = io.BytesIO()
        if out.suffix.lower() not in (".svg", ".png", ".pdf"):
            raise typer.BadParameter(f"--out {str(out)!r} ends in none of .svg, .png, .pdf")
        figure.savefig(buffer, format=out.suffix[1:].lower())
        write_file(out, buffer.getvalue(), force=force)
        print(f"{out}: attention of {loaded.name} at {last.name}, head {head}")
    _page_and_table(loaded.module, inputs, loaded.name, layers, html, stats, force, tokens=tokens)


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
    write_file(out, found.html().encode(), force=force)
    print(found.ansi())
    print(f"{out}: {method} of {loaded.name} for {found.label}")


def _page_and_table(
    module: Any, inputs: Any, name: str, layers: Any, html: Path | None, stats: str | None,
    force: bool, *, target: str | None = None, labels: Any = None, **about: Any,
) -> None:  # fmt: skip
    from ._app import say
    from ._console import print_json, print_table

    if html is not None:
        from ..attention.views import record, save_page

        found = record(module, inputs, layers=layers, name=name, **about)
        for text in found.missed:
            say(f"not read: {text}")
        print(f"{save_page(found, html, force=force)}: page of {len(found.layers)} layers")
    if stats is None:
        return
    from ..attention.statistics import COLUMNS, head_table

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
