"""Halo attention: blocks that look a little beyond their edges."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor, nn

from ...inspection import inspect
from ..card import Shown, register_card
from ..drawings.windows import blocks, on_grid
from ._pairs import MADE, example, on_own_kind, outline, queries
from ._trained import judge, scene_network

_BLOCK, _HALO, _SIDE = 5, 3, 20


@cache
def subject() -> tuple[nn.Module, Tensor]:
    """The network and the example that the card shows."""
    from timm.layers.halo_attn import HaloAttn

    model = scene_network(
        "halo", lambda: HaloAttn(32, block_size=_BLOCK, halo_size=_HALO, num_heads=2)
    )
    return model, example()


@register_card(
    "halo",
    title="Halo attention",
    family="spatial",
    sentence="The feature map is cut into blocks; the places of a block attend it and a halo "
    "around it.",
    equation=r"y_i = \sum_{j \in \mathrm{block}(i) + \mathrm{halo}}"
    r" \mathrm{softmax}_j(q_i \cdot k_j / \sqrt{d} + q_i \cdot r_{j-i})\, v_j",
    paper="Vaswani and others 2021, arXiv:2103.12731",
    reads="timm.layers.halo_attn.HaloAttn, (B x blocks, heads, block^2, (block + 2 halo)^2)",
    subject=subject,
    code="""
import attnviz
entry = attnviz.inspect(model, example).of_kind("self")[0]
weights = entry.read()  # (B * blocks, heads, block ** 2, (block + 2 * halo) ** 2)
""",
)
def card() -> Shown:
    """Where three places look, each inside its block and halo."""
    model, image = subject()
    weights = inspect(model, image).of_kind("self")[0].read()
    figure = blocks(
        weights, image[0].clamp(0, 1), queries(), block=_BLOCK, halo=_HALO, title="Halo attention"
    )
    outline(figure)
    dense = _dense(weights.mean(1))
    own, chance = on_own_kind(dense, _dense(torch.ones_like(weights[:, 0])))
    numbers = {"mean_iou": judge(model), "on_own_colour": own, "on_own_colour_chance": chance}
    caption = (
        f"{MADE}; blocks of {_BLOCK} x {_BLOCK} cells with a halo of {_HALO} (white line). On this "
        f"scene the objects' cells give {own:.0%} of their attention to cells of their own "
        f"colour; spread evenly over what they reach it would be {chance:.0%}. Mean IoU of the "
        f"colours on test scenes {numbers['mean_iou']:.2f}."
    )
    alt = (
        "For a cell of each object and one of the background, where two heads look inside the "
        "block and its halo, whose edge is drawn."
    )
    return Shown(figure, weights, caption, alt, numbers)


def _dense(weights: Tensor) -> Tensor:
    """Write (blocks, block ** 2, window ** 2) as (HW, HW), without what is beyond the picture."""
    window, count = _BLOCK + 2 * _HALO, _SIDE // _BLOCK
    out = torch.zeros(_SIDE, _SIDE, _SIDE**2)
    for number, block in enumerate(weights.numpy()):
        down, across = divmod(number, count)
        for query, row in enumerate(block):
            y, x = divmod(query, _BLOCK)
            top, left = down * _BLOCK - _HALO, across * _BLOCK - _HALO
            one = on_grid(row.reshape(window, window), top, left, (_SIDE, _SIDE))
            place = down * _BLOCK + y, across * _BLOCK + x
            out[place] = torch.from_numpy(np.nan_to_num(one)).flatten()
    return out.view(_SIDE**2, _SIDE**2)
