"""MAE: where patches look after rebuilding hidden ones."""

from __future__ import annotations

from functools import cache

from torch import Tensor, nn

from ..card import Shown, register_card
from ._self import example, show
from ._vits import encoder, vit


@cache
def subject() -> tuple[nn.Module, Tensor]:
    """The encoder and the example that the card shows."""
    model = encoder("mae", vit)
    return model, example()


@register_card(
    "mae",
    title="MAE",
    family="self-supervised",
    sentence="The encoder sees some of the patches, and a small decoder rebuilds the pixels of the "
    "others; the class token is not trained.",
    equation=r"\min \frac{1}{|H|} \sum_{i \in H} \|x_i - \hat{x}_i\|^2,"
    r"\quad m_j = \frac{1}{N} \sum_i A_{ij}",
    paper="He and others 2022, arXiv:2111.06377",
    reads="timm VisionTransformer .blocks[i].attn: mean of the patches' rows, (B, heads, N, N)",
    subject=subject,
    code="""
import attnviz
from attnviz.gallery.drawings.class_token import mean_query_map
weights = attnviz.inspect(model, example).of_kind("self")[-1].read()  # (B, heads, N, N)
maps = mean_query_map(weights, grid=(8, 8))  # mean of the patches' rows, (B, heads, 8, 8)
""",
)
def card() -> Shown:
    """Mean-query maps of a small masked autoencoder."""
    model, _ = subject()
    return show(model, how="60 % of the patches rebuilt from the others, as MAE's", reading="mean")
