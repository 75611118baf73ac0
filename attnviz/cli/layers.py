"""`attnviz layers`: the layers of a model that a map can be made at."""

from __future__ import annotations

from ._options import AsJson, Subject, takes_model

LAYERS_SCHEMA = 1


@takes_model(positional=True, photos=False)
def layers(
    subject: Subject,
    as_json: AsJson = False,
) -> None:
    """List a model's layers with their output shapes; the default one is marked.

    The architecture alone is built: no weights are fetched.
    """
    from ..models import list_layers
    from ..models.prompts import image_half
    from ._console import print_json, print_table

    loaded = subject.load(pretrained=False, photos=False)
    rows = list_layers(image_half(loaded))
    if as_json:
        described = [
            {
                "name": row.name,
                "type": row.type,
                "shape": list(row.shape),
                "note": row.note.removeprefix("default; "),
                "default": row.note.startswith("default"),
            }
            for row in rows
        ]
        print_json("layers", LAYERS_SCHEMA, model=loaded.name, layers=described)
        return
    print_table(
        ["layer", "type", "output", "note"],
        [[r.name, r.type, " x ".join(map(str, r.shape)), r.note] for r in rows],
    )
