"""The gallery: a card for each attention mechanism of the literature, read and drawn.

from attnviz import gallery

gallery.save_page("gallery.html")               # all cards, one page that opens offline
(drawing,) = gallery.draw_all("stn")            # one card: picture, caption, numbers
gallery.cards("stn")[0].show().figure
"""

# the folder first: imported later, it would take the place of the function of the same name
from . import cards as _folder  # noqa: F401
from .card import CARDS, FAMILIES, Card, Shown, cards, register_card, subject
from .drawing import Drawing, draw, draw_all
from .equations import equation_svg
from .page import page, save_page

__all__ = [
    "CARDS",
    "FAMILIES",
    "Card",
    "Drawing",
    "Shown",
    "cards",
    "draw",
    "draw_all",
    "equation_svg",
    "page",
    "register_card",
    "save_page",
    "subject",
]
