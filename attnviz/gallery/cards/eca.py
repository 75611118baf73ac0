"""Efficient channel attention."""

from __future__ import annotations

from functools import cache

from torch import Tensor, nn

from ..card import Shown, register_card
from ._channel import example, first, show
from ._trained import scene_network


@cache
def subject() -> tuple[nn.Module, Tensor]:
    """The network and the example that the card shows."""
    from timm.layers.eca import EcaModule

    return scene_network("eca", lambda: EcaModule(32, kernel_size=5)), example()


@register_card(
    "eca",
    title="Efficient channel attention (ECA)",
    family="channel",
    sentence="Each channel's gate comes from the means of a few neighbouring channels, by one "
    "small convolution along the channels.",
    equation=r"s_c = \sigma\left(\sum_{|d| \leq k/2} w_d\, z_{c+d}\right),"
    r"\quad z_c = \frac{1}{HW}\sum_{ij} x_{cij}",
    paper="Wang and others 2020, arXiv:1910.03151",
    reads="timm.layers.EcaModule .gate, (B, C, 1, 1)",
    subject=subject,
    code="""
import attnviz
entry = attnviz.inspect(model, example).of_kind("channel")[0]
gate = entry.read()  # (B, C, 1, 1), each in [0, 1]
""",
)
def card() -> Shown:
    """ECA gates of a scene and of its negative."""
    model, _ = subject()
    return show(
        model, first(model, "channel"), model.get_submodule("mechanism.gate"), before="stem",
        title="Efficient channel attention",
    )  # fmt: skip
