"""Coordinate attention."""

from __future__ import annotations

from functools import cache

from torch import Tensor, nn

from ...inspection import inspect
from ..card import Shown, register_card
from ..drawings.coordinate import coordinate_gates
from ._trained import held, judge, scene, scene_network

_NUMBER = 4


@cache
def subject() -> tuple[nn.Module, Tensor]:
    """The network and the example that the card shows."""
    from timm.layers.coord_attn import CoordAttn

    model = scene_network("coordinate", lambda: CoordAttn(32, rd_channels=8))
    return model, scene(_NUMBER)[0]


@register_card(
    "coordinate",
    title="Coordinate attention",
    family="channel",
    sentence="Each channel gets a gate for every row and one for every column, from the means "
    "along them.",
    equation=r"\tilde{x}_{cij} = x_{cij}\, g^h_{ci}\, g^w_{cj},"
    r"\quad g^h = \sigma(F_h f^h),\quad g^w = \sigma(F_w f^w)",
    paper="Hou, Zhou, Feng 2021, arXiv:2103.02907",
    reads="timm.layers.CoordAttn .gate, which runs twice: (B, C, H, 1) and (B, C, 1, W)",
    subject=subject,
    code="""
import attnviz
columns, rows = attnviz.inspect(model, example).of_kind("channel & spatial")[:2]
gate = rows.read() * columns.read()  # (B, C, H, W), from (B, C, H, 1) and (B, C, 1, W)
""",
)
def card() -> Shown:
    """Gates of rows and columns of a small trained network."""
    model, image = subject()
    columns, rows = (entry.read() for entry in inspect(model, image).of_kind("channel & spatial"))
    masks, words = scene(_NUMBER)[2:]
    figure = coordinate_gates(
        rows[0], columns[0], image[0].clamp(0, 1), title="Coordinate attention"
    )
    product = (rows * columns)[0]
    cells = masks.amax(0).view(20, 2, 20, 2).mean((1, 3)) >= 0.5
    inside, outside = product[:, cells].mean(1), product[:, ~cells].mean(1)
    numbers = {
        "mean_iou": judge(model),
        "mean_iou_with_gates_held": judge(
            model, gate=model.get_submodule("mechanism.gate"), change=held
        ),
        "most_open_on_objects": float((inside / outside).max()),
    }
    caption = (
        "A network of one convolution, this module and a linear head, trained for a few "
        f"seconds to name the colours in generated scenes under heavy noise; on this one, {words}. "
        "Bands of rows and columns open where an object is: for one channel the gates on the "
        f"objects are {numbers['most_open_on_objects']:.1f} times those elsewhere. Mean IoU of "
        f"the colours {numbers['mean_iou']:.2f}; with every gate held at its mean over the "
        f"scenes, {numbers['mean_iou_with_gates_held']:.2f}."
    )
    alt = (
        "Two strips of gates, rows by channels and columns by channels; below, the scene and, for "
        "three channels, the product of both gates over it: crossing bands."
    )
    return Shown(figure, product[None], caption, alt, numbers)
