"""Local alignment: a window of the source, walking along or predicted."""

from __future__ import annotations

from ..card import Shown, register_card
from . import _alignments

PAPER = "Luong, Pham, Manning 2015, arXiv:1508.04025, section 3.2"


@register_card(
    "local_m",
    title="Local alignment, monotone window",
    family="sequence",
    sentence="Only the source words around the position of the word that is written are looked at; "
    "global alignment looks at them all.",
    equation=r"p_t = t,\quad \alpha_{tj} = \mathrm{softmax}_{|j - p_t| \leq D}\;s_t^\top W h_j",
    paper=PAPER,
    reads=_alignments.READS,
    subject=lambda: _alignments.subject("local_m"),
    code=_alignments.CODE,
)
def local_m() -> Shown:
    """Draw the alignment and the window that walks along."""
    return _alignments.show("local_m", "Local, monotone window")


@register_card(
    "local_p",
    title="Local alignment, predicted window",
    family="sequence",
    sentence="The decoder predicts where its window lies, and a bell around that place pulls the "
    "weights towards it; the bell is what gives the place a gradient.",
    equation=r"p_t = S\,\sigma(v^\top \tanh(W_p s_t)),\quad \alpha_{tj} = "
    r"\mathrm{softmax}_{|j - p_t| \leq D}(e_{tj})\; \exp(-(j - p_t)^2 / 2\sigma^2)",
    paper=PAPER,
    reads="softmax over the window times the bell, at each step, (B, 1, 1, source)",
    subject=lambda: _alignments.subject("local_p"),
    code=_alignments.CODE,
)
def local_p() -> Shown:
    """Draw the alignment and the windows that were predicted."""
    return _alignments.show("local_p", "Local, predicted window")
