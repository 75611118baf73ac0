"""Captioning, soft and hard: one map a word."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ... import inspection
from ...geometry import size_of
from .. import modules as reference
from ..card import Shown, register_card
from ..drawings.captions import word_maps
from ..tasks import scenes
from ..tasks.base import TaskBatch

PAPER = "Xu, Ba, Kiros, Cho, Courville, Salakhutdinov, Zemel, Bengio 2015, arXiv:1502.03044"
_SCORE = r"\alpha_{ti} = \mathrm{softmax}_i\,f_{att}(a_i, h_{t-1}),\quad "


def scene(name: str) -> TaskBatch:
    """Return a test scene."""
    return reference.sample(name, 1, seed=4)


def subject(name: str) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    """The network, and the scene and caption that the card shows."""
    batch = scene(name)
    return reference.load(name), (batch.inputs[0], batch.truth["caption"])


def on_object(maps: torch.Tensor, batch: TaskBatch) -> float:
    """Share of the colour and shape words' weight that is on the object they name."""
    touched = scenes.cells(batch.truth["masks"], size_of(maps))[0]
    named = {1: 0, 2: 0, 5: 1, 6: 1}
    return float(torch.stack([(maps[t] * touched[o]).sum() for t, o in named.items()]).mean())


def words_of(batch: TaskBatch) -> list[str]:
    """Return the caption's words and its end."""
    return [*batch.text["caption"][0], "(end)"]


@register_card(
    "captioning_soft",
    title="Captioning with soft attention",
    family="sequence",
    sentence="Before each word the picture's places are weighed by the writer's state, and the "
    "word is written from their average.",
    equation=_SCORE + r"\hat z_t = \sum_i \alpha_{ti} a_i",
    paper=PAPER,
    reads="softmax over the places at each word, (B, 1, 1, h w)",
    subject=lambda: subject("captioning_soft"),
    code="""
import attnviz, torch
steps = attnviz.inspect(model, example).of_kind("cross")  # one a written word
weights = torch.cat([step.read() for step in steps], 2)[:, 0]  # (B, words, h w)
""",
)
def captioning_soft() -> Shown:
    """Draw the map behind each word of a caption."""
    model, batch = reference.load("captioning_soft"), scene("captioning_soft")
    steps = inspection.inspect(model, (batch.inputs[0], batch.truth["caption"])).of_kind("cross")
    weights = torch.cat([step.read() for step in steps], 2)[:, 0]
    side = round(weights.shape[2] ** 0.5)
    maps, words = weights[0].view(-1, side, side), words_of(batch)
    share = on_object(maps, batch)
    even = float(scenes.cells(batch.truth["masks"], (side, side)).mean())
    return Shown(
        word_maps(maps, words, batch.inputs[0][0], columns=3, title=" ".join(words[:-1])),
        weights,
        f"The words for colour and shape take {share:.0%} of their weight from the object they "
        f"name; even attention would take {even:.0%}.",
        f"A picture of two shapes and {len(words)} maps; those of the words for colour and shape "
        "lie on the object that is named.",
        {"on_object": share, "even": even},
    )


@register_card(
    "captioning_hard",
    title="Captioning with hard attention",
    family="sequence",
    sentence="Each word is read from one place, drawn with these weights; the draw has no "
    "gradient, so the weights are trained by REINFORCE.",
    equation=_SCORE + r"s_t \sim \mathrm{Multinoulli}(\alpha_t),\quad \hat z_t = a_{s_t}",
    paper=PAPER,
    reads="the place read for each word, row and column, (B, words, 2)",
    subject=lambda: subject("captioning_hard"),
    code="""
import attnviz
(entry,) = attnviz.inspect(model, example).of_kind("hard")
cells = entry.read()  # (B, words, 2); the weights are model(*example).attention
""",
)
def captioning_hard() -> Shown:
    """Draw the map behind each word, and the one place that was read."""
    model, batch = reference.load("captioning_hard"), scene("captioning_hard")
    example = (batch.inputs[0], batch.truth["caption"])
    (entry,) = inspection.inspect(model, example).of_kind("hard")
    cells = entry.read()
    with torch.no_grad():
        maps = model(*example).attention[0]
    words, side = words_of(batch), maps.shape[-1]
    touched = scenes.cells(batch.truth["masks"], (side, side))[0]
    named = {1: 0, 2: 0, 5: 1, 6: 1}
    hits = sum(int(touched[o, cells[0, t, 0], cells[0, t, 1]]) for t, o in named.items())
    return Shown(
        word_maps(
            maps, words, batch.inputs[0][0], places=cells[0], columns=3, title=" ".join(words[:-1])
        ),
        cells,
        f"{hits} of the 4 words for colour and shape are read from the object they name; "
        f"the weights put {on_object(maps, batch):.0%} there.",
        f"A picture of two shapes and {len(words)} maps, each with one framed cell.",
        {"on_object": on_object(maps, batch), "hits": hits / 4},
    )
