"""A card: one attention mechanism, said in a sentence, and a function that shows it at work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ..registry import Registry

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: families, in the order of the page
FAMILIES = ("channel", "spatial", "hard", "temporal", "branch", "sequence", "self-supervised")


@dataclass(frozen=True, eq=False)
class Shown:
    """What a card shows.

    Attributes:
        figure: the picture.
        tensor: the tensor that does the attending, (B, ...), as it was read from the model.
        caption: what is to be seen in this very picture, in a sentence, with its numbers.
        alt: the picture in words, for those who cannot see it.
        numbers: what was measured on the example, by name.
    """

    figure: Figure
    tensor: Tensor
    caption: str
    alt: str
    numbers: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Card:
    """One mechanism.

    Attributes:
        name: of the card, lower case with underscores.
        title: what the literature calls the mechanism.
        family: one of `FAMILIES`.
        sentence: what it does, in one sentence.
        equation: in matplotlib's mathtext, without the dollar signs.
        paper: authors, year, arXiv number or DOI.
        reads: module and tensor that are read: "timm.layers.SEModule .gate, (B, C, 1, 1)".
        code: three lines of Python that get the tensor from a user's model and example.
        subject: () -> the model and the example that the card shows.
        show: () -> Shown, on the card's own example; seconds on one core, offline.
    """

    name: str
    title: str
    family: str
    sentence: str
    equation: str
    paper: str
    reads: str
    code: str
    subject: Callable[[], tuple[nn.Module, Any]]
    show: Callable[[], Shown]

    @property
    def snippet(self) -> str:
        """The code with the card's own model and example: it runs as pasted."""
        lines = self.code.splitlines()
        at = next(i for i, line in enumerate(lines) if not line.startswith(("import", "from")))
        own = f'model, example = attnviz.gallery.subject("{self.name}")  # or yours'
        return "\n".join([*lines[:at], own, *lines[at:]])


CARDS = Registry("card", "attnviz.gallery.cards")


def register_card(
    name: str,
    *,
    title: str,
    family: str,
    sentence: str,
    equation: str,
    paper: str,
    reads: str,
    code: str,
    subject: Callable[[], tuple[nn.Module, Any]],
) -> Callable[[Callable[[], Shown]], Callable[[], Shown]]:
    """Register a function `() -> Shown` as the card of a mechanism; see `Card` for the words.

    Raises:
        ValueError: the family is none of `FAMILIES`.
    """
    if family not in FAMILIES:
        raise ValueError(f"family {family!r} of card {name!r} is none of {FAMILIES}")

    def decorate(show: Callable[[], Shown]) -> Callable[[], Shown]:
        card = Card(
            name, title, family, sentence, equation, paper, reads, code.strip("\n"), subject, show
        )
        return CARDS.register(name, family=family, paper=paper, card=card)(show)

    return decorate


def cards(*names: str) -> list[Card]:
    """Return the cards of these names, or all, in the order of the families.

    The first word of several names stands for all of them: "cbam" for `cbam_channel` and
    `cbam_spatial`.

    Raises:
        MethodError: a name is not known.
    """
    entries: list[Any] = [] if names else list(CARDS)
    for name in names:
        group = [e for e in CARDS if e.name.startswith(f"{name.lower()}_")]
        entries += [CARDS.get(name)] if name.lower() in CARDS or not group else group
    found = list({entry.name: entry.meta["card"] for entry in entries}.values())
    return sorted(found, key=lambda card: (FAMILIES.index(card.family), card.title.lower()))


def subject(name: str) -> tuple[nn.Module, Any]:
    """Return the model that a card shows and its example, as `attnviz.inspect` takes them.

    Args:
        name: of one card; see `attnviz gallery --list`.

    Raises:
        MethodError: the name is not known.

    Example:
        >>> model, example = subject("se")
        >>> example.shape[1:]
        torch.Size([3, 40, 40])
    """
    return CARDS.get(name).meta["card"].subject()
