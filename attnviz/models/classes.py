"""Class names against a model's classes: an index by its name, and counts that fit."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import TargetError, did_you_mean


def class_index(name: int | str, count: int, labels: Sequence[str] | None) -> int:
    """Return the index of a class given by index or label text.

    Labels match in full, or as one of the comma-separated synonyms, case aside; a number in a
    string counts as an index.

    Raises:
        TargetError: out of range, unknown (with the nearest labels), or ambiguous.
    """
    if isinstance(name, bool) or not isinstance(name, int | str):
        try:
            name = int(name.__index__())
        except (AttributeError, TypeError):
            got = f"{type(name).__name__}: {name!r}"
            shape = getattr(name, "shape", None)
            if shape is not None:
                got = f"{type(name).__name__} of shape {tuple(shape)}; of rows "
                got += "that are one-hot pass target.argmax(-1), of a column target.squeeze(-1)"
            raise TargetError(f"a class is an index or a label, got {got}") from None
    if isinstance(name, str) and name.strip().isdecimal():
        name = int(name)
    if isinstance(name, int):
        if not 0 <= name < count:
            raise TargetError(
                f"class {name} is out of range: this model has {count} classes, 0 to {count - 1}"
            )
        return name
    if not labels:
        raise TargetError(
            f"class {name!r} is a label, but this model's labels are not known; pass an index "
            f"from 0 to {count - 1}, or labels=[...]"
        )
    wanted = name.strip().lower().replace("_", " ")
    full = [i for i, label in enumerate(labels) if label.lower().replace("_", " ") == wanted]
    found = full or [
        i
        for i, label in enumerate(labels)
        if wanted in (part.strip().lower().replace("_", " ") for part in label.split(","))
    ]
    if len(found) > 1:
        raise TargetError(f"label {name!r} names several classes: {found}; pass one of the indices")
    if not found:
        inside = [label for label in labels if wanted in label.lower()][:5]
        hint = did_you_mean(name, labels) or (
            "; labels with that word: " + ", ".join(map(repr, inside)) if inside else ""
        )
        raise TargetError(f"label {name!r} is not among the model's {len(labels)} labels{hint}")
    return found[0]


def check_labels(labels: Sequence[str] | None, classes: int) -> None:
    """Raise TargetError where class names are not as many as the model's classes."""
    if not labels or len(labels) == classes:
        return
    hint = ""
    if len(labels) == classes + 1:
        hint = f"; is the first one, {labels[0]!r}, a background that the model does not have?"
    elif classes == 2 and len(labels) == 1:
        hint = "; a single logit decides between two classes: name both, the absent one first."
    elif len(labels) == classes - 1:
        hint = "; does the model count a background as its class 0, which the labels leave out?"
    raise TargetError(
        f"{len(labels)} label{'s' * (len(labels) != 1)} ({', '.join(map(repr, labels[:3]))}"
        f"{', ...' if len(labels) > 3 else ''}) for a model of {classes} classes, so names would "
        f"go to the wrong ones{hint or '.'} Give one label a class, in the order of the logits"
    )
