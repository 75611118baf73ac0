"""BEiT: where patches look after masked image modelling."""

from __future__ import annotations

from functools import cache

from torch import Tensor, nn

from ..card import Shown, register_card
from ._self import example, show
from ._vits import HEADS, PATCH, WIDTH, encoder


@cache
def subject() -> tuple[nn.Module, Tensor]:
    """The encoder and the example that the card shows."""
    from timm.models.beit import Beit

    def build() -> nn.Module:
        return Beit(
            img_size=40, patch_size=PATCH, embed_dim=WIDTH, depth=2, num_heads=HEADS,
            num_classes=0, mlp_ratio=2.0, init_values=None,
        )  # fmt: skip

    return encoder("beit", build), example()


@register_card(
    "beit",
    title="BEiT",
    family="self-supervised",
    sentence="Hidden patches are guessed as discrete tokens from the others, so that patches learn "
    "to look at what they belong to.",
    equation=r"\max \sum_{i \in \mathrm{hidden}} \log p(z_i \mid x_{\mathrm{seen}}),"
    r"\quad m_j = \frac{1}{N} \sum_i A_{ij}",
    paper="Bao, Dong, Piao, Wei 2022, arXiv:2106.08254",
    reads="timm Beit .blocks[i].attn: mean of the patches' rows, (B, heads, N, N)",
    subject=subject,
    code="""
import attnviz
from attnviz.gallery.drawings.class_token import mean_query_map
weights = attnviz.inspect(model, example).of_kind("self")[-1].read()  # (B, heads, N, N)
maps = mean_query_map(weights, grid=(8, 8))  # mean of the patches' rows, (B, heads, 8, 8)
""",
)
def card() -> Shown:
    """Mean-query maps of a small BEiT."""
    model, _ = subject()
    return show(model, how="hidden patches' colours guessed, as BEiT's", reading="mean")
