"""Register tokens: more tokens beside the class token, to keep notes in."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn

from ..card import Shown, register_card
from ..drawings.class_token import head_maps, token_map
from ._self import MADE, example, weights_of
from ._vits import GRID, encoder, pictures, vit


@cache
def subject() -> tuple[nn.Module, Tensor]:
    """The encoder and the example that the card shows."""
    model = encoder("registers", lambda: vit(reg_tokens=4))
    return model, example()


@register_card(
    "registers",
    title="Register tokens",
    family="self-supervised",
    sentence="A few more learnt tokens take what a network would otherwise write into patches that "
    "show little.",
    equation=r"x = [\mathrm{cls};\ \mathrm{reg}_1 \ldots \mathrm{reg}_R;\ \mathrm{patches}],"
    r"\quad A = \mathrm{softmax}(q k^\top / \sqrt{d})",
    paper="Darcet, Oquab, Mairal, Bojanowski 2024, arXiv:2309.16588",
    reads="timm VisionTransformer(reg_tokens=4) .blocks[i].attn: rows 1 to 4, (B, heads, N, N)",
    subject=subject,
    code="""
import attnviz
from attnviz.gallery.drawings.class_token import token_map
weights = attnviz.inspect(model, example).of_kind("self")[-1].read()  # (B, heads, N, N)
maps = token_map(weights, grid=(8, 8), token=1)  # the first register's row, (B, heads, 8, 8)
""",
)
def card() -> Shown:
    """Where the class token and the four registers of a small MoCo v3 look in the last block."""
    model, image = subject()
    weights = weights_of(model, image)[-1]
    every = weights_of(model, pictures(64, training=False)[0])[-1].mean((0, 1))
    names = ["class token", *(f"register {r}" for r in range(1, 5))]
    maps = torch.stack([token_map(weights[0].mean(0), GRID, t) for t in range(5)])
    figure = head_maps(
        maps, image[0].clamp(0, 1), names=names,
        label="where the class token and the registers look, mean over the last block's heads",
    )  # fmt: skip
    to_registers = every[5:, 1:5].sum(1).mean()
    numbers = {
        "patches_to_registers": float(to_registers),
        "patches_to_registers_evenly": 4 / every.shape[1],
    }
    caption = (
        f"{MADE}, with four registers (contrast of two views, as MoCo v3's). In its last block the "
        f"patches give the four registers {to_registers:.0%} of their attention; spread evenly it "
        f"would be {4 / every.shape[1]:.0%} (64 test scenes)."
    )
    alt = "A scene of two coloured shapes, and where the class token and four registers look on it."
    return Shown(figure, maps[None], caption, alt, numbers)
