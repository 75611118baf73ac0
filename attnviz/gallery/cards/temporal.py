"""Attention over the frames of a clip."""

from __future__ import annotations

import torch

from ... import inspection
from .. import modules as reference
from ..card import Shown, register_card
from ..drawings.frames import frame_weights
from ..tasks.base import TaskBatch


def clip() -> TaskBatch:
    """Return the first test clip whose sixth frame is underlined."""
    batch = reference.sample("temporal", 40)
    return batch.take((batch.truth["marked"] == 5).int().argmax()[None])


@register_card(
    "temporal",
    title="Temporal attention",
    family="temporal",
    sentence="Every frame gets a weight, and the clip is the weighted average of its frames.",
    equation=r"e_i = w^\top \tanh(U v_i + b),\quad \alpha_i = \mathrm{softmax}_i\,e_i,\quad "
    r"\varphi(V) = \sum_i \alpha_i v_i",
    paper="Yao, Torabi, Cho, Ballas, Pal, Larochelle, Courville 2015, arXiv:1502.08029",
    reads="softmax over the frames, (B, 1, 1, T)",
    subject=lambda: (reference.load("temporal"), clip().inputs[0]),
    code="""
import attnviz
(entry,) = attnviz.inspect(model, example).of_kind("temporal")
weights = entry.read()[:, 0]  # (B, 1, frames)
""",
)
def temporal() -> Shown:
    """Draw a clip of digits; only the underlined one counts."""
    model, batch = reference.load("temporal"), clip()
    (entry,) = inspection.inspect(model, batch.inputs[0]).of_kind("temporal")
    weights = entry.read()[:, 0]
    marked, label = int(batch.truth["marked"]), int(batch.truth["label"])
    with torch.no_grad():
        said = int(model(*batch.inputs).logits.argmax())
    share, count = float(weights[0, 0, marked]), weights.shape[2]
    return Shown(
        frame_weights(
            weights[0, 0], batch.inputs[0][0], marked=marked,
            title=f"Only the underlined digit counts: {label}, read as {said}",
        ),
        weights,
        f"The underlined frame holds {share:.0%} of the weight; even attention would give it "
        f"{1 / count:.1%}.",
        f"{count} small frames with digits; below them bars of which that of frame {marked}, the "
        "underlined one, stands out.",
        {"on_marked": share, "even": 1 / count},
    )  # fmt: skip
