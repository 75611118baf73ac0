"""Selective kernels."""

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
    from timm.layers.selective_kernel import SelectiveKernel

    return scene_network("selective_kernel", lambda: SelectiveKernel(32, 32)), example()


@register_card(
    "selective_kernel",
    title="Selective kernels (SK)",
    family="branch",
    sentence="Convolutions of several sizes run side by side, and each channel takes its share of "
    "each.",
    equation=r"y_c = \sum_b a_{bc}\, u_{bc},\quad a_{\cdot c} = \mathrm{softmax}_b(W_b z),"
    r"\quad z = \mathrm{ReLU}(W\, \mathrm{mean}_{ij} \sum_b u_b)",
    paper="Li, Wang, Hu, Yang 2019, arXiv:1903.06586",
    reads="timm.layers.SelectiveKernel .attn, (B, branches, C, 1, 1)",
    subject=subject,
    code="""
import attnviz
entry = attnviz.inspect(model, example).of_kind("branch")[0]
weights = entry.read()  # (B, branches, C, 1, 1), sums to 1 over the branches
""",
)
def card() -> Shown:
    """Shares of the two kernels in a small trained network."""
    model, images = subject()
    return show(
        model, images, model.get_submodule("mechanism.attn"), title="Selective kernels",
        names=["3 x 3 kernel", "5 x 5 kernel (dilated 3 x 3)"],
    )  # fmt: skip
