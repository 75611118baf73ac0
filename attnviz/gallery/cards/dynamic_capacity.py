"""A fine model where the coarse one's prediction is undecided."""

from __future__ import annotations

import torch

from ... import inspection
from .. import modules as reference
from ..card import Shown, register_card
from ..drawings.glimpses import chosen_cells
from ..tasks.canvas import inside
from .ram import digit


@register_card(
    "dynamic_capacity",
    title="Dynamic capacity network",
    family="hard",
    sentence="A cheap model looks everywhere, and a costly one only at the few cells that decide "
    "how uncertain the cheap prediction is.",
    equation=r"M_{ij} = \|\, \partial H(o) / \partial c_{ij} \,\|_2,\quad H(o) = "
    r"-\sum_k o_k \log o_k",
    paper="Almahairi, Ballas, Cooijmans, Zheng, Larochelle, Courville 2016, arXiv:1511.07838",
    reads="cells given to the fine model, row and column, (B, k, 2)",
    subject=lambda: (reference.load("dcn"), digit("dcn").inputs[0]),
    code="""
import attnviz
(entry,) = attnviz.inspect(model, example).of_kind("hard")
cells = entry.read()  # (B, k, 2); their saliency is model(example).saliency
""",
)
def dynamic_capacity() -> Shown:
    """Draw the entropy's gradient and the cells it sends the fine model to."""
    model, batch = reference.load("dcn"), digit("dcn")
    image, label = batch.inputs[0], int(batch.truth["label"])
    (entry,) = inspection.inspect(model, image).of_kind("hard")
    chosen = entry.read()
    with torch.no_grad():
        out = model(image)
    rows = image.shape[-1] // model.cell
    on = inside((chosen.flip(-1) + 0.5) / rows * 2 - 1, batch.truth["box"], image.shape[-1])[0]
    coarse, fine = (float(x.softmax(1)[0, label]) for x in (out.coarse_logits, out.logits))
    count = chosen.shape[1]
    return Shown(
        chosen_cells(
            out.saliency[0], chosen[0], image[0], context=model.context,
            box=batch.truth["box"][0], title=f"A {label} among clutter (dashed)",
        ),
        chosen,
        f"The fine model reads {count} of {rows * rows} cells, {int(on.sum())} of them centred on "
        f"the digit; the {label} is {coarse:.0%} sure from coarse vectors alone and {fine:.0%} "
        "with the fine ones.",
        "A digit among clutter under a coarse grid of saliency, brightest at the digit, and beside "
        "it the numbered squares that the fine model reads.",
        {"on_digit": float(on.double().mean()), "sure_coarse": coarse, "sure_fine": fine},
    )  # fmt: skip
