"""Lambda layers: keys that pool the whole picture, once for all queries."""

from __future__ import annotations

from functools import cache

from torch import Tensor, nn

from ...inspection import inspect
from ..card import Shown, register_card
from ..drawings.parts import parts
from ._pairs import MADE, NUMBER, example, outline
from ._trained import GRID, judge, scene, scene_network


@cache
def subject() -> tuple[nn.Module, Tensor]:
    """The network and the example that the card shows."""
    from timm.layers.lambda_layer import LambdaLayer

    model = scene_network("lambda_layer", lambda: LambdaLayer(32, num_heads=4, dim_head=8, r=7))
    return model, example()


@register_card(
    "lambda_layer",
    title="Lambda layer",
    family="spatial",
    sentence="Keys normalised over all places turn the picture into one small linear map, which "
    "every query is then put through.",
    equation=r"\lambda = \sum_j \mathrm{softmax}_j(k_j)\, v_j^\top + \sum_j e_{nj}\, v_j^\top,"
    r"\quad y_n = \lambda_n^\top q_n",
    paper="Bello 2021, arXiv:2102.08602",
    reads="timm.layers.lambda_layer.LambdaLayer, softmax of the keys, (B, 1, keys, HW)",
    subject=subject,
    code="""
import attnviz
entry = attnviz.inspect(model, example).of_kind("spatial")[0]
weights = entry.read()  # (B, 1, keys, H * W), sums to 1 over the places
""",
)
def card() -> Shown:
    """Where each key of a small trained network looks."""
    model, image = subject()
    weights = inspect(model, image).of_kind("spatial")[0].read()
    maps = weights[0, 0].unflatten(-1, (GRID, GRID))
    figure = parts(
        maps, image[0].clamp(0, 1), name="key", each=True, winner=False, label="key's weight",
        title="Lambda layer: the softmax of each key over the picture",
    )  # fmt: skip
    outline(figure)
    cells = scene(NUMBER)[2].view(2, GRID, 2, GRID, 2).mean((2, 4)) >= 0.5
    mass = (maps[:, None] * cells).sum((2, 3))
    numbers = {
        "mean_iou": judge(model),
        "most_on_one_object": float(mass.max()),
        "largest_object": float(cells.double().mean((1, 2)).max()),
    }
    caption = (
        f"{MADE}. A lambda layer never forms a matrix of places by places: these are its keys, "
        "each a softmax over the picture. The key that looks most at one object gives it "
        f"{numbers['most_on_one_object']:.0%} of its weight; the larger object covers "
        f"{numbers['largest_object']:.0%} of the picture. Mean IoU of the colours on test scenes "
        f"{numbers['mean_iou']:.2f}."
    )
    alt = "A noisy scene of two shapes and, for each of eight keys, its weights over the scene."
    return Shown(figure, weights, caption, alt, numbers)
