"""`attnviz demo`: the main job on a real photo, with real weights and no download."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ._app import tell
from ._options import AsJson, Device

DEMO_SCHEMA = 1


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the picture.")] = Path("attnviz-out"),
    as_json: AsJson = False,
    device: Device = None,
    story: Annotated[
        str | None,
        typer.Option(help="boat-water: confuse a small network, audit it, guide it, audit again."),
    ] = None,
) -> None:
    """Explain a photo that comes with matplotlib, by the model that comes with attnviz.

    EfficientNet-Lite0 with its ImageNet weights looks at Grace Hopper; nothing is fetched.
    With [bold]--story boat-water[/bold]: the whole of audit and guidance on generated scenes.
    """
    if story is not None:
        if story != "boat-water":
            raise typer.BadParameter(f"--story {story!r} is not known; there is boat-water")
        from ._story import boat_water

        boat_water(out, as_json)
        return
    from ..data.prepared import Prepared
    from ..images import picture_bytes
    from ..models import resolve_preprocess
    from ._console import print_json
    from ._explaining import explain_batch
    from ._options import Subject
    from ._sample import sample_photo

    photo = sample_photo()
    loaded = Subject(device=device).load()
    ready = Prepared.read(photo, resolve_preprocess(None, loaded.module, loaded))
    (((maps, predicted),),) = explain_batch(
        loaded, [ready], methods=["gradcam"], labels=loaded.labels
    )
    goal = out / f"{photo.stem}.{maps.method}.panel.png"
    path = _keep(goal, picture_bytes(maps.panel(0), goal.suffix)).absolute()
    if as_json:
        print_json(
            "demo", DEMO_SCHEMA, model=loaded.name, photo=str(photo), picture=str(path),
            method=maps.method, layer=maps.layer, map_size=list(maps.values.shape[1:]),
            predicted=predicted, score=float(maps.score[0]), units=maps.units,
        )  # fmt: skip
        return
    height, width = maps.values.shape[1:]
    tell(f"photo    {photo} (Grace Hopper, US Navy, public domain)")
    tell(f"model    {loaded.name}")
    assert predicted is not None  # the embedded model is a classifier
    tell(f"it saw   {predicted['label']}, {predicted['probability']:.1%}")
    tell(f"the map  {maps.method} at {maps.layer}, {height} x {width}")
    tell(f"picture  {path}")


def _keep(goal: Path, data: bytes) -> Path:
    """Write the picture under its name, or under the next free one if another file has it."""
    from ._files import write_file

    path, number = goal, 2
    while path.exists():
        if path.is_file() and path.read_bytes() == data:
            return path  # an earlier demo's, the same to the byte
        path, number = goal.with_name(f"{goal.stem}-{number}{goal.suffix}"), number + 1
    write_file(path, data)
    return path
