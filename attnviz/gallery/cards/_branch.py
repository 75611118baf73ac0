"""What the cards of branch attention share."""

from __future__ import annotations

from torch import Tensor, nn

from ...inspection import inspect
from ..card import Shown
from ..drawings.branches import branch_shares
from ._channel import SCENES
from ._trained import held, judge


def show(
    model: nn.Module, images: Tensor, gate: nn.Module, *, names: list[str], title: str
) -> Shown:
    """Draw the branches' shares for a scene; say how far they move for its negative.

    Args:
        model: a `SceneNetwork` trained on negatives too.
        images: (2, 3, 40, 40), a scene and its negative.
        gate: the module whose output is the shares.
        names: of the branches.
        title: above the figure.
    """
    shares = inspect(model, images).of_kind("branch")[0].read()
    figure = branch_shares(shares[0], names=names, title=title)
    flat = shares.flatten(2)
    numbers = {
        "mean_iou": judge(model, negatives=True),
        "mean_iou_with_shares_held": judge(model, negatives=True, gate=gate, change=held),
        "largest_change": float((flat[0] - flat[1]).abs().max()),
    }
    caption = (
        f"{SCENES[0].upper()}{SCENES[1:]}. For the negative of this very scene one channel's share "
        f"moves by {numbers['largest_change']:.2f}. Mean IoU of the colours "
        f"{numbers['mean_iou']:.2f}; with every share held at its mean over the scenes, "
        f"{numbers['mean_iou_with_shares_held']:.2f}."
    )
    alt = (
        f"A stacked bar for each of {flat.shape[2]} channels, reaching 1: the share of "
        + " and of ".join(names)
        + "."
    )
    return Shown(figure, shares, caption, alt, numbers)
