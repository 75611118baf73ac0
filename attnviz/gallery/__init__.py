"""The gallery: a card for each attention mechanism of the literature, read and drawn."""

from .card import CARDS, FAMILIES, Card, Shown, cards, register_card

__all__ = ["CARDS", "FAMILIES", "Card", "Shown", "cards", "register_card"]
