"""Attention over words, then over sentences."""

from __future__ import annotations

import torch
from torch import nn

from ... import inspection
from .. import modules as reference
from ..card import Shown, register_card
from ..drawings.documents import document
from ..tasks.base import TaskBatch


@register_card(
    "hierarchical",
    title="Hierarchical attention",
    family="sequence",
    sentence="Words are weighed within their sentence, sentences within the document, each by its "
    "agreement with a learned context vector.",
    equation=r"\alpha_{it} = \mathrm{softmax}_t\;u_w^\top \tanh(W_w h_{it} + b_w),\quad "
    r"\alpha_i = \mathrm{softmax}_i\;u_s^\top \tanh(W_s h_i + b_s)",
    paper="Yang, Yang, Dyer, He, Smola, Hovy 2016, doi:10.18653/v1/N16-1174",
    reads="softmax over words (B L, 1, 1, W) and over sentences (B, 1, 1, L)",
    subject=lambda: (reference.load("hierarchical"), review().inputs[0]),
    code="""
import attnviz
words, sentences = attnviz.inspect(model, example).of_kind("temporal")
weights = sentences.read()[:, 0]  # (B, 1, L); words.read() is (B * L, 1, 1, W)
""",
)
def hierarchical() -> Shown:
    """Draw a review of which one sentence holds the verdict."""
    model, batch = reference.load("hierarchical"), review()
    words, sentences = inspection.inspect(model, batch.inputs[0]).of_kind("temporal")
    weights, inner = sentences.read()[:, 0], words.read()[:, 0, 0]
    verdict = int(batch.truth["sentence"])
    deciding = batch.truth["words"][0, verdict]
    with torch.no_grad():
        said = int(model(*batch.inputs).logits.argmax())
    text, label = batch.text["source"][0], int(batch.truth["label"])
    on_sentence = float(weights[0, 0, verdict])
    on_words = float(inner[verdict][deciding].sum())
    first = " ".join(w for w, d in zip(text[verdict], deciding.tolist(), strict=False) if d)
    kinds = ("bad", "good")
    mean, denied = many(model)
    return Shown(
        document(
            weights[0, 0], inner, text,
            title=f"A {kinds[label]} review, read as {kinds[said]}",
        ),
        weights,
        f"The sentence with the verdict holds {on_sentence:.0%} of the weight (even: "
        f"{1 / len(text):.0%}), and in it '{first}' {on_words:.0%} of the words' weight. Over 200 "
        f"test reviews the verdict's sentence holds {mean:.0%}, but only {denied:.0%} where it is "
        "'not' and a word of praise: the network may call bad what nothing speaks for, and look "
        "elsewhere.",
        f"{len(text)} sentences with bars; the bar of the verdict is the longest, and its judging "
        "word is the darkest.",
        {"on_sentence": on_sentence, "on_words": on_words, "even": 1 / len(text),
         "on_sentence_mean": mean, "on_sentence_not_praise": denied},
    )  # fmt: skip


def review() -> TaskBatch:
    """Return the longest test review, of 40, whose verdict is one word of praise."""
    batch = reference.sample("hierarchical", 40)
    plain = batch.truth["words"].sum((1, 2)) == 1
    lengths = torch.tensor([len(text) for text in batch.text["source"]])
    return batch.take((lengths * plain * batch.truth["label"]).argmax()[None])


@torch.no_grad()
def many(model: nn.Module) -> tuple[float, float]:
    """Return the weight on the verdict's sentence over 200 test reviews, and without praise.

    The second is the mean over those whose verdict is "not" and a word of praise.
    """
    batch = reference.sample("hierarchical", 200, seed=1)
    weights = model(*batch.inputs).sentences
    verdict = weights.gather(1, batch.truth["sentence"][:, None])[:, 0]
    negated = (batch.truth["words"].sum((1, 2)) == 2) & (batch.truth["label"] == 0)
    return float(verdict.mean()), float(verdict[negated].mean())
