"""Stand-alone self-attention in place of a convolution."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...inspection import inspect
from ..card import Shown, register_card
from ..drawings.windows import neighbourhoods
from ._reference import measured, trained
from ._trained import centres

_NUMBER = 1


def subject() -> tuple[nn.Module, Tensor]:
    """The trained reference and the example that the card shows."""
    return trained("stand_alone", _NUMBER)[:2]


@register_card(
    "stand_alone",
    title="Stand-alone self-attention",
    family="spatial",
    sentence="A convolution whose weights are computed afresh at every pixel, from what is there.",
    equation=r"y_{ij} = \sum_{ab \in N_k(ij)} \mathrm{softmax}_{ab}"
    r"(q_{ij} \cdot k_{ab} + q_{ij} \cdot r_{a-i,b-j})\, v_{ab}",
    paper="Ramachandran and others 2019, arXiv:1906.05909",
    reads="attnviz.gallery.modules.stand_alone.StandAloneSelfAttention, a window a pixel",
    subject=subject,
    code="""
import attnviz
entry = attnviz.inspect(model, example)[0]
weights = entry.read()  # (B * H * W, heads, 1, k * k), sums to 1 over the window
""",
)
def card() -> Shown:
    """Where two pixels look in their neighbourhoods."""
    model, image = subject()
    batch = trained("stand_alone", _NUMBER)[2]
    weights = inspect(model, image)[0].read()
    side, k = round(len(weights) ** 0.5), round(weights.shape[-1] ** 0.5)
    folded = weights.view(side, side, -1, k, k).permute(2, 0, 1, 3, 4)
    places = centres(batch.truth["masks"][0])
    # a third pixel on an object's edge: half of its window is background
    edge = _edge(batch.truth["label"][0], places[0])
    figure = neighbourhoods(
        folded, image[0].clamp(0, 1), [*places, edge], title="Stand-alone self-attention"
    )
    known = measured("stand_alone")
    numbers = {"mean_iou": known["accuracy"]} | {
        n: known[n] for n in ("same_region", "same_region_chance")
    }
    caption = (
        "The trained reference on a test scene: naming the colour of noisy shapes; two pixels in "
        "the middle of the objects and one at an edge. Pixels of objects give "
        f"{numbers['same_region']:.0%} of their attention to their own object, which in their "
        f"windows would by chance be {numbers['same_region_chance']:.0%} (test scenes)."
    )
    alt = "For three pixels and two heads, the weights in the 5 x 5 window around the pixel."
    return Shown(figure, weights, caption, alt, numbers)


def _edge(label: Tensor, place: tuple[int, int]) -> tuple[int, int]:
    """The last cell to the right of a place that has its colour."""
    row = label[place[0], place[1] :] == label[place]
    outside = torch.nonzero(~row)
    return place[0], place[1] + (int(outside[0]) if len(outside) else len(row)) - 1
