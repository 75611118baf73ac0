"""Alignment by the angle between state and word."""

from __future__ import annotations

from ..card import Shown, register_card
from . import _alignments


@register_card(
    "cosine",
    title="Content-based alignment: cosine",
    family="sequence",
    sentence="A source word weighs by the angle between its annotation and the decoder's state, "
    "whatever their lengths; a learned sharpness says how strictly.",
    equation=r"e_{tj} = \beta\,\frac{s_t^\top h_j}{\|s_t\|\,\|h_j\|},\quad "
    r"\alpha_{tj} = \mathrm{softmax}_j\,e_{tj}",
    paper="Graves, Wayne, Danihelka 2014, arXiv:1410.5401",
    reads=_alignments.READS,
    subject=lambda: _alignments.subject("cosine"),
    code=_alignments.CODE,
)
def cosine() -> Shown:
    """Draw the alignment of a sentence whose words change places."""
    return _alignments.show("cosine", "Cosine")
