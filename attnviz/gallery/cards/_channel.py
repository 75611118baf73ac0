"""What the cards of channel gates share: scenes and their negatives, one network a gate."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ...hooks import capture
from ...inspection import Mechanism, inspect
from ..card import Shown
from ..drawings.channel import channel_gates
from ._trained import held, judge, scene

#: (scene, its negative) of this number among the test scenes
NUMBER = 4
SCENES = (
    "a network of one convolution, this module and a linear head, trained for a few seconds "
    "to name the colours in generated scenes, half of which are negatives"
)


def example() -> Tensor:
    """A scene and its negative, (2, 3, 40, 40)."""
    return scene(NUMBER, negatives=True)[0]


def show(model: nn.Module, entry: Mechanism, gate: nn.Module, *, before: str, title: str) -> Shown:
    """Draw the gates of the scene, those of its negative as dots, and what they multiply.

    Args:
        model: a `SceneNetwork` trained on negatives too.
        entry: of the gate, as `inspect` read it on `example()`.
        gate: the module whose output is the gate.
        before: name of the module whose output is multiplied.
        title: above the figure.
    """
    images = example()
    values = entry.read()
    with torch.no_grad(), capture(model, [before], gradients=False) as seen:
        model(images)
    figure = channel_gates(
        values[0],
        seen.activations[before][0],
        images[0].clamp(0, 1),
        other=values[1],
        other_photo=images[1].clamp(0, 1),
        names=("the scene", "its negative"),
        title=title,
    )
    flat = values.flatten(1)
    numbers = {
        "mean_iou": judge(model, negatives=True),
        "mean_iou_with_gates_held": judge(model, negatives=True, gate=gate, change=held),
        "largest_change": float((flat[0] - flat[1]).abs().max()),
    }
    words = scene(NUMBER, negatives=True)[3]
    caption = (
        f"{SCENES[0].upper()}{SCENES[1:]}. Bars: gates for {words}; dots: for its negative. The "
        f"whole picture tells which it is, and the gates answer: one moves by "
        f"{numbers['largest_change']:.2f}. Colours are named with a mean IoU of "
        f"{numbers['mean_iou']:.2f}; with every gate held at its mean over the scenes, "
        f"{numbers['mean_iou_with_gates_held']:.2f}."
    )
    alt = (
        f"{flat.shape[1]} bars, one a channel, between {flat[0].min():.2f} and "
        f"{flat[0].max():.2f}, with a dot each for the negative; below, the scene and the "
        "activation of the four most opened and the two least opened channels over it."
    )
    return Shown(figure, values, caption, alt, numbers)


def first(model: nn.Module, kind: str) -> Mechanism:
    """The first mechanism of a kind in a model, read on `example()`."""
    return inspect(model, example()).of_kind(kind)[0]
