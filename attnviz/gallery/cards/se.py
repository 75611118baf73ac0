"""Squeeze and excitation."""

from __future__ import annotations

from functools import cache

from torch import Tensor, nn

from ..card import Shown, register_card
from ._channel import example, first, show
from ._trained import scene_network


@cache
def subject() -> tuple[nn.Module, Tensor]:
    """The network and the example that the card shows."""
    from timm.layers.squeeze_excite import SEModule

    return scene_network("se", lambda: SEModule(32, rd_channels=16)), example()


@register_card(
    "se",
    title="Squeeze and excitation",
    family="channel",
    sentence="The mean of each channel goes through a small network that says how far each channel "
    "is opened.",
    equation=r"s = \sigma(W_2\,\mathrm{ReLU}(W_1 z)),\quad z_c = \frac{1}{HW}\sum_{ij} x_{cij},"
    r"\quad \tilde{x}_c = s_c x_c",
    paper="Hu, Shen, Sun 2018, arXiv:1709.01507",
    reads="timm.layers.SEModule .gate or torchvision.ops.SqueezeExcitation .scale_activation, "
    "(B, C, 1, 1)",
    subject=subject,
    code="""
import attnviz
entry = attnviz.inspect(model, example).of_kind("channel")[0]
gate = entry.read()  # (B, C, 1, 1), each in [0, 1]
""",
)
def card() -> Shown:
    """Squeeze-and-excitation gates of a scene and of its negative."""
    model, _ = subject()
    return show(
        model, first(model, "channel"), model.get_submodule("mechanism.gate"), before="stem",
        title="Squeeze and excitation",
    )  # fmt: skip
