"""Additive alignment of words."""

from __future__ import annotations

import torch

from .. import modules as reference
from ..card import Shown, register_card
from ..drawings.alignments import aligned
from ..tasks.base import TaskBatch
from . import _alignments

EQUATION = (
    r"e_{tj} = v^\top \tanh(W s_{t-1} + U h_j),\quad "
    r"\alpha_{tj} = \mathrm{softmax}_j\,e_{tj},\quad c_t = \sum_j \alpha_{tj} h_j"
)
PAPER = "Bahdanau, Cho, Bengio 2015, arXiv:1409.0473"


@register_card(
    "bahdanau",
    title="Additive alignment (Bahdanau)",
    family="sequence",
    sentence="Before it writes a word, the decoder's state is compared with every source word by a "
    "small network, and the source is averaged with these weights.",
    equation=EQUATION,
    paper=PAPER,
    reads=_alignments.READS,
    subject=lambda: _alignments.subject("bahdanau"),
    code=_alignments.CODE,
)
def bahdanau() -> Shown:
    """Draw the alignment of a sentence whose words change places."""
    return _alignments.show("bahdanau", "Additive")


@register_card(
    "bahdanau_letters",
    title="Additive alignment of letters: dates",
    family="sequence",
    sentence="The same alignment letter by letter: day, month and year are fetched in reverse "
    "order, while the digits inside each run forwards.",
    equation=EQUATION,
    paper=PAPER,
    reads=_alignments.READS,
    subject=lambda: (reference.load("dates"), (date().inputs[0], date().truth["target"])),
    code=_alignments.CODE,
)
def bahdanau_letters() -> Shown:
    """Draw the alignment of a written date with its ISO form."""
    model, batch = reference.load("dates"), date()
    weights = _alignments.read(model, batch.inputs[0], batch.truth["target"])
    source, target = batch.text["source"][0], [*batch.text["target"][0], "(end)"]
    truth, part = batch.truth["alignment"][0], batch.truth["part"][0]
    counts = truth.any(1)
    peak = weights[0].argmax(1, keepdim=True)
    inside = part.gather(1, peak)[:, 0][counts]
    exact = truth.gather(1, peak)[:, 0][counts]
    written, iso = "".join(source), "".join(target[:-1])
    return Shown(
        aligned(
            weights[0],
            [letter.replace(" ", "\u2423") for letter in source],
            target,
            origin=[row.nonzero()[:, 0].tolist() for row in truth],
            title=f"{written} becomes {iso}",
        ),
        weights,
        f"{int(inside.sum())} of {len(inside)} digits look most inside their own part of "
        f"'{written}' (year, month or day), {int(exact.sum())} at the very letters they come from.",
        "A matrix of an ISO date's characters by the letters of the written date; the bright "
        "blocks of year, month and day run against the diagonal.",
        {
            "in_part": float(inside.double().mean()),
            "aligned": float(exact.double().mean()),
            "mass": float((weights[0] * truth).sum(1)[counts].mean()),
        },
    )


def date() -> TaskBatch:
    """Return a test date that names the day before the month and the year last."""
    batch = reference.sample("dates", 40)
    lengths = (batch.inputs[0] != 0).sum(1)
    texts = ["".join(text) for text in batch.text["source"]]
    index = next(i for i, text in enumerate(texts) if text[:2].isdigit() and text[2] == " ")
    one = batch.take(torch.tensor([index]))
    length = int(lengths[index])
    truth = {
        "target": one.truth["target"],
        "alignment": one.truth["alignment"][:, :, :length],
        "part": one.truth["part"][:, :, :length],
    }
    return TaskBatch((one.inputs[0][:, :length],), truth, one.text)
