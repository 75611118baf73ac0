"""MoCo v3: the class token's attention after contrastive training."""

from __future__ import annotations

from functools import cache

from torch import Tensor, nn

from ..card import Shown, register_card
from ._self import example, show
from ._vits import encoder, vit


@cache
def subject() -> tuple[nn.Module, Tensor]:
    """The encoder and the example that the card shows."""
    model = encoder("moco_v3", vit)
    return model, example()


@register_card(
    "moco_v3",
    title="MoCo v3",
    family="self-supervised",
    sentence="Two views of a picture must find each other among other pictures; the class token "
    "looks for what tells pictures apart.",
    equation=r"L = -\log \frac{\exp(q \cdot k^+ / \tau)}{\sum_k \exp(q \cdot k / \tau)}",
    paper="Chen, Xie, He 2021, arXiv:2104.02057",
    reads="timm VisionTransformer .blocks[i].attn: the class token's row, (B, heads, N, N)",
    subject=subject,
    code="""
import attnviz
from attnviz.gallery.drawings.class_token import token_map
weights = attnviz.inspect(model, example).of_kind("self")[-1].read()  # (B, heads, N, N)
maps = token_map(weights, grid=(8, 8))  # the class token's row, (B, heads, 8, 8)
""",
)
def card() -> Shown:
    """Class token's maps of a small MoCo v3."""
    model, _ = subject()
    return show(model, how="contrast of two views with a slow teacher, as MoCo v3's")
