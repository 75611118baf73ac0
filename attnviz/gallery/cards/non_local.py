"""Non-local blocks."""

from __future__ import annotations

from functools import cache

from torch import Tensor, nn

from ...inspection import inspect
from ..card import Shown, register_card
from ..drawings.pairs import place_maps
from ._pairs import MADE, example, on_own_kind, outline, queries
from ._trained import judge, scene_network


@cache
def subject() -> tuple[nn.Module, Tensor]:
    """The network and the example that the card shows."""
    from timm.layers.non_local_attn import NonLocalAttn

    # timm's own starts with its output multiplied by 0 and its logits by 1 / sqrt(channels)
    model = scene_network("non_local", lambda: NonLocalAttn(32, rd_channels=16, use_scale=False))
    return model, example()


@register_card(
    "non_local",
    title="Non-local block",
    family="spatial",
    sentence="Every place of a feature map attends every place, and the result is added to it.",
    equation=r"y_i = \sum_j \mathrm{softmax}_j(\theta(x_i)^\top \phi(x_j))\, g(x_j),"
    r"\quad z_i = W y_i + x_i",
    paper="Wang, Girshick, Gupta, He 2018, arXiv:1711.07971",
    reads="timm.layers.NonLocalAttn, (B, 1, HW, HW)",
    subject=subject,
    code="""
import attnviz
entry = attnviz.inspect(model, example).of_kind("self")[0]
weights = entry.read()  # (B, 1, H * W, H * W), rows sum to 1
""",
)
def card() -> Shown:
    """Where three places look in a small trained network."""
    model, image = subject()
    weights = inspect(model, image).of_kind("self")[0].read()
    figure = place_maps(weights[0], image[0].clamp(0, 1), queries(), title="Non-local block")
    outline(figure)
    own, chance = on_own_kind(weights[0, 0])
    numbers = {"mean_iou": judge(model), "on_own_colour": own, "on_own_colour_chance": chance}
    caption = (
        f"{MADE}. On this scene the objects' cells give {own:.0%} of their attention to cells of "
        f"their own colour, which make up {chance:.0%} of the picture. Mean IoU of the colours on "
        f"test scenes {numbers['mean_iou']:.2f}."
    )
    alt = "For a cell of each object and one of the background: the scene, and where it looks."
    return Shown(figure, weights, caption, alt, numbers)
