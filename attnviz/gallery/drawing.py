"""A card drawn: its picture as bytes and what was measured, or why it failed."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from ..errors import DataError
from .card import FAMILIES, Card, Shown, cards
from .equations import equation_svg

_DPI = 120


@dataclass(frozen=True, eq=False)
class Drawing:
    """What came of a card.

    Attributes:
        card: the card.
        image: the picture, PNG; empty where the card failed.
        size: width and height of the picture in CSS pixels.
        equation: SVG; empty where it could not be set.
        shape: of the tensor that was read.
        caption: see `Shown`.
        alt: see `Shown`.
        numbers: see `Shown`.
        seconds: of wall time that it took.
        error: why the card failed, in one line; None where it did not.
    """

    card: Card
    image: bytes = b""
    size: tuple[int, int] = (0, 0)
    equation: str = ""
    shape: tuple[int, ...] = ()
    caption: str = ""
    alt: str = ""
    numbers: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    error: str | None = None


def draw(card: Card) -> Drawing:
    """Run a card and keep its picture; a card that fails says why instead of raising.

    The random state is set for the card and is afterwards what it was, so that a card shows the
    same alone and among others.
    """
    begun = time.perf_counter()
    equation = ""
    try:
        equation = equation_svg(card.equation)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            shown = card.show()
        image, size = _picture(shown)
        return Drawing(
            card, image, size, equation, tuple(shown.tensor.shape), shown.caption, shown.alt,
            {name: float(value) for name, value in shown.numbers.items()},
            time.perf_counter() - begun,
        )  # fmt: skip
    except Exception as error:  # one bad card must not cost the others
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        spent = time.perf_counter() - begun
        return Drawing(card, equation=equation, seconds=spent, error=reason)


def draw_all(*names: str, family: str | None = None) -> tuple[Drawing, ...]:
    """Draw cards, in the order of the page.

    Args:
        *names: of cards; all if left out.
        family: only cards of this one of `FAMILIES`.

    Raises:
        MethodError: a name is not known.
        DataError: the family is not known, or none of the named cards is in it.
    """
    return tuple(draw(card) for card in chosen(names, family))


def chosen(names: Sequence[str] = (), family: str | None = None) -> list[Card]:
    """Return the cards that `draw_all` draws; raises as that does."""
    from ..errors import did_you_mean

    if family is not None and family not in FAMILIES:
        raise DataError(
            f"family {family!r} is not known{did_you_mean(family, FAMILIES) or '.'} "
            f"Known: {', '.join(FAMILIES)}"
        )
    found = [c for c in cards(*dict.fromkeys(names)) if family in (None, c.family)]
    if not found:
        what = f"of {', '.join(names)} none is" if names else "there is no card"
        raise DataError(f"{what} in family {family!r}; leave the family out, or name another card")
    return found


def _picture(shown: Shown) -> tuple[bytes, tuple[int, int]]:
    """Return the figure as PNG, small, and its size in CSS pixels (1/96 inch)."""
    from PIL import Image

    if not shown.alt.strip() or not shown.caption.strip():
        raise DataError("the card has no caption or no words for those who cannot see the picture")
    raw = io.BytesIO()
    try:
        shown.figure.savefig(raw, format="png", dpi=_DPI, facecolor="white")
    finally:
        pyplot = sys.modules.get("matplotlib.pyplot")
        if pyplot is not None:  # figures that pyplot made stay in memory until it is told
            pyplot.close(shown.figure)
    picture = Image.open(raw).convert("RGB")
    small = io.BytesIO()
    picture.save(small, "PNG", optimize=True)
    return small.getvalue(), (
        round(picture.width * 96 / _DPI),
        round(picture.height * 96 / _DPI),
    )
