"""Global context: softmax pooling, then a gate for each channel."""

from __future__ import annotations

from functools import cache

from torch import Tensor, nn

from ..card import Shown, register_card
from ._channel import example, first, show
from ._trained import scene_network


@cache
def subject() -> tuple[nn.Module, Tensor]:
    """The network and the example that the card shows."""
    from timm.layers.global_context import GlobalContext

    return scene_network("global_context", lambda: GlobalContext(32, rd_channels=8)), example()


@register_card(
    "global_context",
    title="Global context (GC)",
    family="channel",
    sentence="One softmax over all places pools a context, and a small network turns it into a "
    "gate for each channel.",
    equation=r"c = \sum_j \mathrm{softmax}_j(w^\top x_j)\, x_j,"
    r"\quad s = \sigma(W_2\,\mathrm{ReLU}(\mathrm{LN}(W_1 c)))",
    paper="Cao, Xu, Lin, Wei, Hu 2019, arXiv:1904.11492",
    reads="timm.layers.GlobalContext: pooling weights (B, 1, 1, HW) and .gate (B, C, 1, 1)",
    subject=subject,
    code="""
import attnviz
inventory = attnviz.inspect(model, example)
pooling = inventory.of_kind("spatial")[0].read()  # (B, 1, 1, H * W), sums to 1
gate = inventory.of_kind("channel")[0].read()  # (B, C, 1, 1), each in [0, 1]
""",
)
def card() -> Shown:
    """Gates of a global context block, for a scene and for its negative."""
    model, _ = subject()
    shown = show(
        model, first(model, "channel"), model.get_submodule("mechanism.gate"), before="stem",
        title="Global context",
    )  # fmt: skip
    pooling = first(model, "spatial").read()
    shown.numbers["pooled_evenly"] = float(
        1 / (pooling[0].square().sum() * pooling.shape[-1])
    )  # 1: every place counts alike
    return shown
