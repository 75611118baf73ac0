"""Luong's scores: dot, general, concat and location."""

from __future__ import annotations

from ..card import Shown, register_card
from . import _alignments

PAPER = "Luong, Pham, Manning 2015, arXiv:1508.04025"
_AFTER = r",\quad \alpha_{tj} = \mathrm{softmax}_j\,e_{tj}"


@register_card(
    "luong_dot",
    title="Multiplicative alignment: dot (Luong)",
    family="sequence",
    sentence="A source word weighs as much as its annotation points along the decoder's state; "
    "nothing is learned in the score itself.",
    equation=r"e_{tj} = s_t^\top h_j" + _AFTER,
    paper=PAPER,
    reads=_alignments.READS,
    subject=lambda: _alignments.subject("luong_dot"),
    code=_alignments.CODE,
)
def luong_dot() -> Shown:
    """Draw the alignment of a sentence whose words change places."""
    return _alignments.show("luong_dot", "Dot")


@register_card(
    "luong_general",
    title="Multiplicative alignment: general (Luong)",
    family="sequence",
    sentence="A learned matrix says which parts of the decoder's state ask for which parts of a "
    "source word.",
    equation=r"e_{tj} = s_t^\top W h_j" + _AFTER,
    paper=PAPER,
    reads=_alignments.READS,
    subject=lambda: _alignments.subject("luong_general"),
    code=_alignments.CODE,
)
def luong_general() -> Shown:
    """Draw the alignment of a sentence whose words change places."""
    return _alignments.show("luong_general", "General")


@register_card(
    "luong_concat",
    title="Alignment by concatenation (Luong)",
    family="sequence",
    sentence="State and source word are joined and scored by a small network: the additive score "
    "under another name, read after the step instead of before.",
    equation=r"e_{tj} = v^\top \tanh(W\,[s_t; h_j])" + _AFTER,
    paper=PAPER,
    reads=_alignments.READS,
    subject=lambda: _alignments.subject("luong_concat"),
    code=_alignments.CODE,
)
def luong_concat() -> Shown:
    """Draw the alignment of a sentence whose words change places."""
    return _alignments.show("luong_concat", "Concat")


@register_card(
    "luong_location",
    title="Alignment by location (Luong)",
    family="sequence",
    sentence="The decoder's state alone says which position to look at; what stands there is not "
    "asked.",
    equation=r"e_t = W s_t" + _AFTER,
    paper=PAPER,
    reads=_alignments.READS,
    subject=lambda: _alignments.subject("luong_location"),
    code=_alignments.CODE,
)
def luong_location() -> Shown:
    """Draw the alignment of a sentence whose words change places."""
    return _alignments.show("luong_location", "Location")
