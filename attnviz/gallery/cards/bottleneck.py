"""Bottleneck transformers: self-attention with relative positions in a residual network."""

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
    from timm.layers.bottleneck_attn import BottleneckAttn

    model = scene_network("bottleneck", lambda: BottleneckAttn(32, feat_size=(20, 20), num_heads=2))
    return model, example()


@register_card(
    "bottleneck",
    title="Bottleneck attention (BoTNet)",
    family="spatial",
    sentence="All-to-all self-attention with relative positions stands where the 3 x 3 convolution "
    "of a residual block was.",
    equation=r"A = \mathrm{softmax}(q k^\top / \sqrt{d} + q r^\top),"
    r"\quad r_{ij} = r^h_{\Delta y} + r^w_{\Delta x}",
    paper="Srinivas and others 2021, arXiv:2101.11605",
    reads="timm.layers.bottleneck_attn.BottleneckAttn, (B, heads, HW, HW)",
    subject=subject,
    code="""
import attnviz
entry = attnviz.inspect(model, example).of_kind("self")[0]
weights = entry.read()  # (B, heads, H * W, H * W), rows sum to 1
""",
)
def card() -> Shown:
    """Where three places look in both heads of a small trained network."""
    model, image = subject()
    weights = inspect(model, image).of_kind("self")[0].read()
    figure = place_maps(weights[0], image[0].clamp(0, 1), queries(), title="Bottleneck attention")
    outline(figure)
    own, chance = on_own_kind(weights[0].mean(0))
    numbers = {"mean_iou": judge(model), "on_own_colour": own, "on_own_colour_chance": chance}
    caption = (
        f"{MADE}. On this scene the objects' cells give {own:.0%} of their attention to cells of "
        f"their own colour, which make up {chance:.0%} of the picture. Mean IoU of the colours on "
        f"test scenes {numbers['mean_iou']:.2f}."
    )
    alt = (
        "For a cell of each object and one of the background: the scene, and where two heads look."
    )
    return Shown(figure, weights, caption, alt, numbers)
