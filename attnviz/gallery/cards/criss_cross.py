"""Criss-cross attention."""

from __future__ import annotations

from torch import Tensor, nn

from ...inspection import inspect
from ..card import Shown, register_card
from ..drawings.criss_cross import criss_cross
from ._reference import measured, trained
from ._trained import centres

_NUMBER = 1


def subject() -> tuple[nn.Module, Tensor]:
    """The trained reference and the example that the card shows."""
    return trained("criss_cross", _NUMBER)[:2]


@register_card(
    "criss_cross",
    title="Criss-cross attention (CCNet)",
    family="spatial",
    sentence="Each pixel attends its own row and column; a second pass reaches every pixel.",
    equation=r"A_u = \mathrm{softmax}_{i \in \mathrm{cross}(u)}(q_u \cdot k_i),"
    r"\quad x'_u = \gamma \sum_i A_{ui} v_i + x_u",
    paper="Huang and others 2019, arXiv:1811.11721",
    reads="attnviz.gallery.modules.criss_cross.CrissCrossAttention, (B, R, H, W, H + W)",
    subject=subject,
    code="""
import attnviz
entry = attnviz.inspect(model, example)[0]
weights = entry.read()  # (B, passes, H, W, H + W): along the column, then along the row
""",
)
def card() -> Shown:
    """Where two pixels look in each pass and through both."""
    model, image = subject()
    batch = trained("criss_cross", _NUMBER)[2]
    weights = inspect(model, image)[0].read()
    places = centres(batch.truth["masks"][0])
    figure = criss_cross(
        weights[0], image[0].clamp(0, 1), places, title="Criss-cross attention of two pixels"
    )
    known = measured("criss_cross")
    numbers = {"mean_iou": known["accuracy"]} | {
        n: known[n] for n in ("same_region", "same_region_chance")
    }
    caption = (
        "The trained reference on a test scene: naming the colour of noisy shapes. In the last "
        f"pass, pixels of objects give {numbers['same_region']:.0%} of their attention to their "
        f"own object, which by chance would be {numbers['same_region_chance']:.0%} (test scenes); "
        f"mean IoU of the colours {numbers['mean_iou']:.2f}."
    )
    alt = (
        "For a pixel in each of two shapes: its attention along its row and column in the first "
        "and in the second pass, and through both passes over the whole scene."
    )
    return Shown(figure, weights, caption, alt, numbers)
