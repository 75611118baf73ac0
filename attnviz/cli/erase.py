"""`attnviz erase`: what a trained model looks at once the first region is gone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ._app import tell
from ._options import Labels, Subject, Target, one_target, takes_model

ERASE_SCHEMA = 1


@takes_model()
def erase(
    photo: Annotated[Path, typer.Argument(metavar="PHOTO")],
    subject: Subject,
    steps: Annotated[int, typer.Option(min=1, help="Regions to erase, at most.")] = 4,
    target: Target = None,
    threshold: Annotated[
        float, typer.Option(help="Share of the map's maximum that is erased.", min=0, max=1)
    ] = 0.5,
    fill: Annotated[str, typer.Option(help="blur, mean, noise, inpaint or zero.")] = "blur",
    method: Annotated[str, typer.Option(help="A name of `attnviz methods`.")] = "gradcam",
    layer: Annotated[str | None, typer.Option(help="A name of `attnviz layers`.")] = None,
    labels: Labels = None,
    out: Annotated[Path, typer.Option(help="Folder for the picture.")] = Path("attnviz-out"),
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the picture.")] = False,
) -> None:
    """Erase the region behind a class score, look again, and so on: score after each step.

    The picture shows, step by step, the map on the picture as it then is.
    """
    import numpy as np

    from ..erasing import FILLS, mine
    from ..images import picture_bytes, read_image
    from ..models import labels_of, read_labels, resolve_preprocess
    from ..render import Tile, grid
    from ..targets import parsed
    from ._console import print_json
    from ._files import refuse_existing, write_file

    wanted = one_target(target)
    if fill not in FILLS:
        raise typer.BadParameter(f"--fill {fill!r} is not one of {', '.join(FILLS.names())}")
    goal = out / f"{photo.stem}.erase.png"
    if not force:
        refuse_existing([goal])
    loaded = subject.load()
    prepare = resolve_preprocess(None, loaded.module, loaded)
    names = read_labels(labels) if labels else labels_of(loaded.module, loaded)
    tensor, geometry = prepare(read_image(photo))
    found = mine(
        loaded.module, tensor, target=parsed(wanted, names), steps=steps, threshold=threshold,
        fill=fill, method=method, layer=layer, labels=names,
    )  # fmt: skip

    # back to colours by the span of the untouched input: fills lie within it
    low, high = found.images[0].min(), found.images[0].max()
    pixels = ((found.images - low) / (high - low).clamp_min(1e-6) * 255).clamp(0, 255)
    pictures = pixels.permute(0, 2, 3, 1).round().numpy().astype(np.uint8)
    area = [float(found.regions[: k + 1].any(0).float().mean()) for k in range(len(found.regions))]
    tiles = []
    for k, picture in enumerate(pictures):
        gone = f", {area[k - 1]:.0%} erased" if k else ""
        chance = f" ({found.probabilities[k]:.1%})" if found.probabilities is not None else ""
        mapped = k < len(found.maps)
        tiles.append(
            Tile(
                photo=picture,
                values=found.maps[k].numpy() if mapped else None,
                title="as it is" if k == 0 else f"step {k}" if mapped else "what is left",
                caption=f"score {found.scores[k]:.3g}{chance}{gone}",
            )
        )
    if any(t.values is not None for t in tiles):
        title = f"{found.label}: {found.method} at {found.layer}, fill {found.fill}"
        drawn = grid([tiles], title=title)
        write_file(goal, picture_bytes(drawn, goal.suffix), force=force)
    rows = [
        {
            "step": k,
            "score": float(found.scores[k]),
            "probability": None if found.probabilities is None else float(found.probabilities[k]),
            "rank": None if found.ranks is None else found.ranks[k],
            "erased": 0.0 if k == 0 else area[k - 1],
        }
        for k in range(len(found.scores))
    ]
    if as_json:
        print_json(
            "erase", ERASE_SCHEMA, photo=str(photo), target=found.target, label=found.label,
            method=found.method, layer=found.layer, fill=found.fill, stopped=found.stopped,
            picture=str(goal.absolute()) if goal.exists() else None, steps=rows,
            **geometry.as_dict(),
        )  # fmt: skip
        return
    tell(f"{photo}: {found.label}, {found.method} at {found.layer}, fill {found.fill}")
    for row in rows:
        chance = "" if row["probability"] is None else f"  {row['probability']:7.1%}"
        rank = "" if row["rank"] is None else f"  rank {row['rank']}"
        first = f"step {row['step']}  score {row['score']:8.3f}{chance}{rank}"
        tell(f"{first}  erased {row['erased']:.0%}")
    reason = {"evidence": "nothing speaks for it any more", "area": "too little is left"}
    if found.stopped in reason:
        tell(f"stopped: {reason[found.stopped]}")
    if goal.exists():
        tell(f"picture {goal.absolute()}")
