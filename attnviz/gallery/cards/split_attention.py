"""Split attention of ResNeSt."""

from __future__ import annotations

from functools import cache

from torch import Tensor, nn

from ..card import Shown, register_card
from ._branch import show
from ._channel import example
from ._trained import scene_network


@cache
def subject() -> tuple[nn.Module, Tensor]:
    """The network and the example that the card shows."""
    from timm.layers.split_attn import SplitAttn

    model = scene_network("split_attention", lambda: SplitAttn(32, 32, norm_layer=nn.BatchNorm2d))
    return model, example()


@register_card(
    "split_attention",
    title="Split attention (ResNeSt)",
    family="branch",
    sentence="A grouped convolution gives several splits of each channel, and a softmax over the "
    "splits mixes them.",
    equation=r"y_c = \sum_r a_{rc}\, u_{rc},"
    r"\quad a_{\cdot c} = \mathrm{softmax}_r(G_r(\mathrm{mean}_{ij} \sum_r u_r))",
    paper="Zhang and others 2020, arXiv:2004.08955",
    reads="timm.layers.SplitAttn .rsoftmax, read as (B, splits, C, 1, 1)",
    subject=subject,
    code="""
import attnviz
entry = attnviz.inspect(model, example).of_kind("branch")[0]
weights = entry.read()  # (B, splits, C, 1, 1), sums to 1 over the splits
""",
)
def card() -> Shown:
    """Shares of the two splits in a small trained network."""
    model, images = subject()
    return show(
        model, images, model.get_submodule("mechanism.rsoftmax"), names=["split 1", "split 2"],
        title="Split attention",
    )  # fmt: skip
