"""One way to write a target as text, in Python and on the command line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..errors import TargetError, did_you_mean
from .detected import BoxTarget
from .finer import FinerTarget
from .kinds import ClassTarget, Contrast, Probability, Target
from .placed import EmbeddingTarget, PhotoRegion
from .prompted import TextTarget, TokenTarget

#: kinds that a text may name, and how each is written
FORMS = {
    "class": "class:boat",
    "probability": "probability:boat",
    "contrast": "contrast:boat,seashore",
    "finer": "finer:boat",
    "region": "region:mask.png or region:mask.png@boat",
    "pixel": "pixel:120,80 or pixel:120,80@boat",
    "box": "box:3 or box:120,80,300,260 or box:120,80,300,260@boat",
    "embedding": "embedding:other.jpg",
    "text": "text:a boat",
    "token": "token:boat or token:boat@a photo of",
}


def parse(text: str) -> Target:
    """Return the target that a text stands for: `class:boat`, `contrast:boat,seashore`, ...

    A text without a kind is a class: an index or a label.

    Raises:
        TargetError: an unknown kind, or a form that does not fit it; the message has the forms.
    """
    kind, colon, rest = text.partition(":")
    kind, rest = kind.strip().lower(), rest.strip()
    if not colon:
        return ClassTarget(text)
    if kind not in FORMS:
        raise TargetError(
            f"target {text!r}: kind {kind!r} is not known{did_you_mean(kind, FORMS) or '.'} "
            f"Forms: {'; '.join(FORMS.values())}; a label with a colon in it is class:LABEL"
        )
    if not rest:
        raise TargetError(f"target {text!r} names nothing; write {FORMS[kind]}")
    return _MADE[kind](rest)


def parsed(target: Any, labels: Sequence[str] | None) -> Any:
    """Return a target with texts of a kind turned into what they stand for; labels stay labels."""
    if isinstance(target, list | tuple):
        return [parsed(one, labels) for one in target]
    if not isinstance(target, str) or ":" not in target or target in (labels or ()):
        return target
    return parse(target)


def _contrast(text: str) -> Target:
    names = [name.strip() for name in text.split(",")]
    if len(names) != 2 or not all(names):
        raise TargetError(f"contrast:{text} needs two classes: {FORMS['contrast']}")
    return Contrast(names[0], names[1])


def _region(text: str) -> Target:
    path, _, cls = text.partition("@")
    return PhotoRegion(path.strip(), cls.strip() or None)


def _pixel(text: str) -> Target:
    place, _, cls = text.partition("@")
    try:
        x, y = (float(number) for number in place.split(","))
    except ValueError:
        raise TargetError(f"pixel:{text} needs x and y: {FORMS['pixel']}") from None
    return PhotoRegion((x, y), cls.strip() or None)


def _box(text: str) -> Target:
    place, at, cls = text.partition("@")
    try:
        if not at and place.strip().isdecimal():
            return BoxTarget(int(place))
        x0, y0, x1, y1 = (float(number) for number in place.split(","))
    except ValueError:
        raise TargetError(f"box:{text} needs a number, or x0,y0,x1,y1: {FORMS['box']}") from None
    return BoxTarget((x0, y0, x1, y1), cls.strip() or None)


def _token(text: str) -> Target:
    word, _, prompt = text.partition("@")
    return TokenTarget(word.strip(), prompt=prompt.strip())


_MADE: dict[str, Callable[[str], Target]] = {
    "class": ClassTarget,
    "probability": Probability,
    "contrast": _contrast,
    "finer": FinerTarget,
    "region": _region,
    "pixel": _pixel,
    "box": _box,
    "embedding": EmbeddingTarget,
    "text": TextTarget,
    "token": _token,
}
