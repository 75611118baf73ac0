"""DINO: the class token's attention, and the patches that hold 60 % of it."""

from __future__ import annotations

from functools import cache

from torch import Tensor, nn

from ..card import Shown, register_card
from ._self import example, show
from ._vits import encoder, vit


@cache
def subject() -> tuple[nn.Module, Tensor]:
    """The encoder and the example that the card shows."""
    model = encoder("dino", vit)
    return model, example()


@register_card(
    "dino",
    title="DINO, DINOv2",
    family="self-supervised",
    sentence="A student learns its teacher's answers across views of a picture; at full size the "
    "class token comes to look at objects.",
    equation=r"\min_\theta -\sum P_t(v)\, \log P_s(v'),"
    r"\quad M = \mathrm{smallest\ set\ with\ } \sum_{j \in M} A_{0j} \geq 0.6 \sum_j A_{0j}",
    paper="Caron and others 2021, arXiv:2104.14294; Oquab and others 2023, arXiv:2304.07193",
    reads="timm VisionTransformer .blocks[i].attn: the class token's row, (B, heads, N, N)",
    subject=subject,
    code="""
import attnviz
from attnviz.gallery.drawings.class_token import mass_mask, token_map
weights = attnviz.inspect(model, example).of_kind("self")[-1].read()  # (B, heads, N, N)
maps = token_map(weights, grid=(8, 8))  # the class token's row, (B, heads, 8, 8)
kept = mass_mask(maps, 0.6)  # the patches that hold 60 % of each head's mass
""",
)
def card() -> Shown:
    """Class token's maps and mass-threshold masks of a small DINO."""
    model, _ = subject()
    return show(model, how="self-distillation as DINO's, two views", mass=0.6)
