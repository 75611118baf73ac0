"""The channel half of CBAM."""

from __future__ import annotations

from functools import cache

from torch import Tensor, nn

from ..card import Shown, register_card
from ._channel import example, first, show
from ._trained import scene_network


@cache
def subject() -> tuple[nn.Module, Tensor]:
    """The network and the example that the card shows."""
    from timm.layers.cbam import CbamModule

    return scene_network("cbam_channel", lambda: CbamModule(32, rd_channels=8)), example()


@register_card(
    "cbam_channel",
    title="CBAM, channels",
    family="channel",
    sentence="As squeeze and excitation, but from the mean and the maximum of each channel through "
    "one shared network.",
    equation=r"s = \sigma(f(\mathrm{mean}_{ij}\,x) + f(\mathrm{max}_{ij}\,x)),"
    r"\quad f(z) = W_2\,\mathrm{ReLU}(W_1 z)",
    paper="Woo, Park, Lee, Kweon 2018, arXiv:1807.06521",
    reads="timm.layers.cbam.CbamModule .channel.gate, (B, C, 1, 1)",
    subject=subject,
    code="""
import attnviz
entry = attnviz.inspect(model, example).of_kind("channel")[0]
gate = entry.read()  # (B, C, 1, 1), each in [0, 1]
""",
)
def card() -> Shown:
    """CBAM's channel gates of a scene and of its negative."""
    model, _ = subject()
    return show(
        model, first(model, "channel"), model.get_submodule("mechanism.channel.gate"),
        before="stem", title="CBAM, channel half",
    )  # fmt: skip
