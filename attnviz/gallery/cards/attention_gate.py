"""Attention gate of a U-Net."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...hooks import capture
from ...inspection import inspect
from ..card import Shown, register_card
from ..drawings.spatial import spatial_gate
from ._reference import measured, trained

_NUMBER = 1


def subject() -> tuple[nn.Module, Tensor]:
    """The trained reference and the example that the card shows."""
    return trained("attention_gate", _NUMBER)[:2]


@register_card(
    "attention_gate",
    title="Attention gate",
    family="spatial",
    sentence="In a U-Net, the deeper layer decides place by place what the skip connection lets "
    "through.",
    equation=r"\alpha_i = \sigma(\psi^\top \mathrm{ReLU}(W_x x_i + W_g g_i + b_g) + b_\psi),"
    r"\quad \hat{x}_i = \alpha_i x_i",
    paper="Oktay and others 2018, arXiv:1804.03999",
    reads="attnviz.gallery.modules.attention_gate.AttentionGate, (B, 1, H, W)",
    subject=subject,
    code="""
import attnviz
entry = attnviz.inspect(model, example).of_kind("spatial")[0]
gate = entry.read()  # (B, 1, H, W), each in [0, 1]
""",
)
def card() -> Shown:
    """The gate of the trained attention U-Net over a test scene."""
    model, image = subject()
    batch = trained("attention_gate", _NUMBER)[2]
    gate = inspect(model, image).of_kind("spatial")[0].read()
    with torch.no_grad(), capture(model, ["fine"], gradients=False) as seen:
        model(image)
    skip = seen.activations["fine"][0]
    disc = batch.truth["disc"][0] == 1
    figure = spatial_gate(
        gate[0], image[0].clamp(0, 1), before=skip, after=gate[0] * skip, outline=disc.float(),
        top=None,
        title="Attention gate of a U-Net that finds discs (outlined)",
    )  # fmt: skip
    known = measured("attention_gate")
    names = ("gate_at_disc_rims", "gate_at_other_rims", "gate_elsewhere")
    numbers = {"mean_iou": known["accuracy"]} | {name: known[name] for name in names}
    caption = (
        "The trained reference on a test scene: the task is to find discs among other shapes, with "
        "a small price on what the gate lets through. Over the test scenes the gate is "
        f"{numbers['gate_at_disc_rims']:.2f} at the rims of discs, "
        f"{numbers['gate_at_other_rims']:.2f} at those of other shapes and "
        f"{numbers['gate_elsewhere']:.2f} elsewhere; mean IoU of discs and the rest "
        f"{numbers['mean_iou']:.2f}."
    )
    alt = (
        "A noisy scene of coloured shapes; the gate over it, bright at the disc's rim; the skip "
        "connection's activation before and after the gate."
    )
    return Shown(figure, gate, caption, alt, numbers)
