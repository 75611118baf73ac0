"""The spatial half of CBAM."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...hooks import capture
from ...inspection import inspect
from ..card import Shown, register_card
from ..drawings.spatial import spatial_gate
from . import cbam_channel
from ._channel import NUMBER, SCENES
from ._trained import held, judge, scene


def subject() -> tuple[nn.Module, Tensor]:
    """The network and the example that the card shows: those of the channel half."""
    model, images = cbam_channel.subject()
    return model, images[:1]


@register_card(
    "cbam_spatial",
    title="CBAM, places",
    family="spatial",
    sentence="One gate for each place, from the mean and the maximum over the channels there and "
    "around it.",
    equation=r"s_{ij} = \sigma(\mathrm{conv}_{7\times7}[\mathrm{mean}_c\,x;\ \mathrm{max}_c\,x])"
    r"_{ij},\quad \tilde{x}_{cij} = s_{ij}\, x_{cij}",
    paper="Woo, Park, Lee, Kweon 2018, arXiv:1807.06521",
    reads="timm.layers.cbam.CbamModule .spatial.gate, (B, 1, H, W)",
    subject=subject,
    code="""
import attnviz
entry = attnviz.inspect(model, example).of_kind("spatial")[0]
gate = entry.read()  # (B, 1, H, W), each in [0, 1]
""",
)
def card() -> Shown:
    """CBAM's gate of places over a scene, and what comes in and goes out."""
    model, image = subject()
    gate = inspect(model, image).of_kind("spatial")[0].read()
    layers = ["mechanism.channel", "mechanism"]
    with torch.no_grad(), capture(model, layers, gradients=False) as seen:
        model(image)
    before, after = (seen.activations[name][0] for name in layers)
    masks, words = scene(NUMBER, negatives=True)[2:]
    figure = spatial_gate(
        gate[0], image[0].clamp(0, 1), before=before, after=after, outline=masks.amax(0),
        title="CBAM, spatial half",
    )  # fmt: skip
    cells = masks.amax(0).view(20, 2, 20, 2).mean((1, 3)) >= 0.5
    map_ = gate[0, 0]
    numbers = {
        "gate_on_objects": float(map_[cells].mean()),
        "gate_elsewhere": float(map_[~cells].mean()),
        "mean_iou": judge(model, negatives=True),
        "mean_iou_with_gates_held": judge(
            model, negatives=True, gate=model.get_submodule("mechanism.spatial.gate"), change=held
        ),
    }
    caption = (
        f"{SCENES[0].upper()}{SCENES[1:]}; on this one, {words} (outlined). The gate is "
        f"{numbers['gate_on_objects']:.2f} on the objects and {numbers['gate_elsewhere']:.2f} "
        f"elsewhere. Mean IoU of the colours {numbers['mean_iou']:.2f}; with every place's gate "
        f"held at its mean over the scenes, {numbers['mean_iou_with_gates_held']:.2f}."
    )
    alt = (
        "The scene, the gate over it with the objects outlined, and the mean size of the "
        "activation before and after the gate."
    )
    return Shown(figure, gate, caption, alt, numbers)
