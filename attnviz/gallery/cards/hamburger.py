"""Matrix decomposition instead of attention: Hamburger."""

from __future__ import annotations

from torch import Tensor, nn

from ...inspection import inspect
from ..card import Shown, register_card
from ..drawings.parts import parts
from ._reference import measured, trained

_NUMBER = 1


def subject() -> tuple[nn.Module, Tensor]:
    """The trained reference and the example that the card shows."""
    return trained("hamburger", _NUMBER)[:2]


@register_card(
    "hamburger",
    title="Matrix decomposition (Hamburger)",
    family="spatial",
    sentence="The features are factorised into a few parts and how much of each is in every pixel; "
    "the low-rank product is the global context.",
    equation=r"\min_{D,C \geq 0} \|Y - D C^\top\|,"
    r"\quad C \leftarrow C \odot \frac{Y^\top D}{C D^\top D}",
    paper="Geng and others 2021, arXiv:2109.04553",
    reads="attnviz.gallery.modules.matrix_decomposition.Hamburger, (B, R, H, W)",
    subject=subject,
    code="""
import attnviz
entry = attnviz.inspect(model, example)[0]
weights = entry.read()  # (B, R, H, W): how much of each part, >= 0, not normalised
""",
)
def card() -> Shown:
    """Codes of the parts over a test scene."""
    model, image = subject()
    weights = inspect(model, image)[0].read()
    figure = parts(
        weights[0], image[0].clamp(0, 1), name="part", label="code", each=True,
        title="Codes of the parts (>= 0, not normalised)",
    )  # fmt: skip
    known = measured("hamburger")
    numbers = {"mean_iou": known["accuracy"]} | {
        n: known[n] for n in ("object_is_a_part", "object_is_a_part_chance")
    }
    caption = (
        "The trained reference on a test scene: naming the colour of noisy shapes. An object's "
        f"best part ranks its cells before the others with an AUROC of "
        f"{numbers['object_is_a_part']:.2f} over the test scenes; the best of another image's "
        f"parts with {numbers['object_is_a_part_chance']:.2f}."
    )
    alt = "A noisy scene of two shapes, the strongest part at each place, and a map for each part."
    return Shown(figure, weights, caption, alt, numbers)
