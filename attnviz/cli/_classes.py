"""`--classes`: which of the model's classes a class of the data is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

Members = dict[str, tuple[int | str, ...]]


def read_classes(given: str | None) -> Members:
    """Return data class -> the model's classes, of A=B,C=D|E or a JSON file {A: B, C: [D, E]}.

    Raises:
        BadParameter: neither of the two.
        DataError: the file cannot be read.
    """
    if given is None:
        return {}
    if given.endswith(".json"):
        from .. import limits

        found: Any = limits.read_json(Path(given), "annotation_bytes")
    else:
        pairs = [part.partition("=") for part in given.split(",")]
        found = {
            name.strip(): [v.strip() for v in values.split("|")] if equals else None
            for name, equals, values in pairs
        }
    if isinstance(found, dict):
        lists = {k: v if isinstance(v, list) else [v] for k, v in found.items()}
        if lists and all(k and v and all(map(_is_class, v)) for k, v in lists.items()):
            return {k: tuple(v) for k, v in lists.items()}
    raise typer.BadParameter(
        f"--classes {given!r}: expected DATA=MODEL pairs with commas between them, such as "
        'boat=speedboat|lifeboat,cat=tabby, or a JSON file {"boat": ["speedboat"]}'
    )


def _is_class(value: Any) -> bool:
    return (isinstance(value, str) and bool(value)) or type(value) is int
