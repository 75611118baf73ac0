"""`attnviz selftest`: what holds on your own model, and which methods may be believed there."""

from __future__ import annotations

from typing import Annotated

import typer

from ._app import FAILURE, GATE_FAILED, say, tell
from ._options import AsJson, Layer, Subject, takes_model

SELFTEST_SCHEMA = 1
#: photos that are tested on; more say little more
MOST = 8


@takes_model(positional=True)
def selftest(
    subject: Subject,
    photos: Annotated[
        list[str] | None,
        typer.Option(help="Files, folders or patterns; coloured blobs if left out."),
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(help="Names of `attnviz methods`, with commas; all CAMs if left out."),
    ] = None,
    layer: Layer = None,
    as_json: AsJson = False,
) -> None:
    """Test on a model what should hold, and say in words what does not and why.

    Exits with 3 if a gate fails: the model is not deterministic, or a method's map hardly changes
    when the weights are replaced by random ones.
    """
    import torch

    from ..errors import ImageError, MethodError
    from ..images import read_image
    from ..methods import METHODS
    from ..models import resolve_preprocess
    from ..selftest import selftest as run
    from ..selftest import synthetic_photos
    from ._console import print_json
    from ._photos import gather

    names = None
    if methods:
        try:
            names = [METHODS.get(word.strip()).name for word in methods.split(",")]
        except MethodError as error:
            raise typer.BadParameter(str(error)) from error
    images = []
    if photos:
        found, unreadable = gather(photos)
        for photo in found[:MOST]:
            try:
                images.append(read_image(photo))
            except ImageError as error:
                unreadable.append((str(photo), error))
        for _, error in unreadable:
            say(f"error: {error}")
        if not images or unreadable:
            raise typer.Exit(FAILURE)
        if len(found) > MOST:
            say(f"tested on the first {MOST} of {len(found)} photos")
    else:
        images = synthetic_photos()
    loaded = subject.load()
    prepare = resolve_preprocess(None, loaded.module, loaded)
    place = next((p for p in loaded.module.parameters() if p.is_floating_point()), torch.zeros(0))
    tensors = [prepare(image)[0] for image in images]
    if len({t.shape for t in tensors}) > 1:
        say("error: the preprocessing gives inputs of several shapes; give photos of one size")
        raise typer.Exit(FAILURE)
    x = torch.stack(tensors).to(place.device, place.dtype)
    report = run(
        loaded, x, layer=layer, methods=names, step=lambda what: say(f"testing {what} ...")
    )
    if as_json:
        print_json("selftest", SELFTEST_SCHEMA, images=len(x), **report.as_dict())
    else:
        for line in report.lines():
            tell(line)
    if not report.passed:
        say("a gate failed: see above before you believe a map of this model")
        raise typer.Exit(GATE_FAILED)
