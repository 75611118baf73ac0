"""Expectation-maximisation attention."""

from __future__ import annotations

from torch import Tensor, nn

from ...inspection import inspect
from ..card import Shown, register_card
from ..drawings.parts import parts
from ._reference import measured, trained

_NUMBER = 1


def subject() -> tuple[nn.Module, Tensor]:
    """The trained reference and the example that the card shows."""
    return trained("ema", _NUMBER)[:2]


@register_card(
    "ema",
    title="Expectation-maximisation attention (EMANet)",
    family="spatial",
    sentence="A few bases, found by steps of EM, stand for the whole image; each pixel shares "
    "itself out to them.",
    equation=r"Z = \mathrm{softmax}_k(\lambda X \mu^\top),"
    r"\quad \mu_k = \frac{\sum_n z_{nk} x_n}{\sum_n z_{nk}},\quad \tilde{X} = Z\mu",
    paper="Li and others 2019, arXiv:1907.13426",
    reads="attnviz.gallery.modules.expectation_maximization.EMAttention, (B, K, H, W)",
    subject=subject,
    code="""
import attnviz
entry = attnviz.inspect(model, example)[0]
weights = entry.read()  # (B, K, H, W), sums to 1 over the K bases
""",
)
def card() -> Shown:
    """Responsibilities of the bases over a test scene."""
    model, image = subject()
    weights = inspect(model, image)[0].read()
    figure = parts(
        weights[0], image[0].clamp(0, 1), name="basis", top=1.0, label="responsibility",
        title="Responsibilities of the bases (sum to 1 at each place)",
    )  # fmt: skip
    known = measured("ema")
    numbers = {"mean_iou": known["accuracy"]} | {
        n: known[n] for n in ("object_is_a_part", "object_is_a_part_chance")
    }
    caption = (
        "The trained reference on a test scene: naming the colour of noisy shapes. An object's "
        f"best basis ranks its cells before the others with an AUROC of "
        f"{numbers['object_is_a_part']:.2f} over the test scenes; the best of another image's "
        f"bases with {numbers['object_is_a_part_chance']:.2f}."
    )
    alt = (
        "A noisy scene of two shapes, the strongest basis at each place, and eight maps of "
        "responsibilities."
    )
    return Shown(figure, weights, caption, alt, numbers)
