"""Highway gates."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...inspection import inspect
from ..card import Shown, register_card
from ..drawings.branches import gates_by_layer
from ._reference import measured, trained

_NUMBER = 0


def subject() -> tuple[nn.Module, Tensor]:
    """The trained reference and the example that the card shows."""
    return trained("highway", _NUMBER)[:2]


@register_card(
    "highway",
    title="Highway gates",
    family="branch",
    sentence="In each layer a gate chooses, unit by unit, between computing anew and passing on.",
    equation=r"y = T(x) \odot H(x) + (1 - T(x)) \odot x,\quad T(x) = \sigma(W_T x + b_T)",
    paper="Srivastava, Greff, Schmidhuber 2015, arXiv:1505.00387",
    reads="attnviz.gallery.modules.highway.Highway: T and 1 - T of each layer, (B, 2, D)",
    subject=subject,
    code="""
import attnviz, torch
entries = attnviz.inspect(model, example).of_kind("branch")
weights = torch.stack([entry.read() for entry in entries], 1)  # (B, layers, 2, D): T, 1 - T
""",
)
def card() -> Shown:
    """Gates of all twenty layers of the trained classifier, for one digit."""
    model, image = subject()
    batch = trained("highway", _NUMBER)[2]
    shares = torch.stack([e.read() for e in inspect(model, image).of_kind("branch")], 1)
    gates = shares[0, :, 0]
    figure = gates_by_layer(gates, title="Highway: share of each unit that is computed anew")
    known = measured("highway")
    names = (
        "accuracy", "mean_gate", "nearly_shut", "accuracy_without_nearly_shut",
        "accuracy_without_the_others",
    )  # fmt: skip
    numbers = {name: known[name] for name in names}
    caption = (
        f"The trained reference on a handwritten {int(batch.truth['label'][0])}. Over the test "
        f"digits {numbers['nearly_shut']:.0%} of the gates are below 0.1. With those shut "
        f"altogether, accuracy is {numbers['accuracy_without_nearly_shut']:.2f} (whole: "
        f"{numbers['accuracy']:.2f}); with only the others shut, "
        f"{numbers['accuracy_without_the_others']:.2f}."
    )
    alt = (
        f"A grid of {gates.shape[0]} layers by {gates.shape[1]} units, nearly all dark, and the "
        "mean gate of each layer."
    )
    return Shown(figure, shares, caption, alt, numbers)
