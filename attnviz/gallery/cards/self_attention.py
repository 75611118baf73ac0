"""Self-attention with softmax and with ReLU scores."""

from __future__ import annotations

import torch

from ... import inspection
from .. import modules as reference
from ..card import Shown, register_card
from ..drawings.self_attention import layer
from ..tasks.base import TaskBatch
from ..tasks.canvas import box_mask

CODE = """
import attnviz
layers = attnviz.inspect(model, example).of_kind("self")
weights = layers[-1].read()  # (B, heads, N, N)
"""
READS = "softmax or ReLU of the scores in each layer, (B, heads, N, N)"


@register_card(
    "self_attention_softmax",
    title="Self-attention, softmax scores",
    family="sequence",
    sentence="Every token asks every other, and takes the average of what they hold; a row sums to "
    "1, so each token has to look somewhere.",
    equation=r"A = \mathrm{softmax}(Q K^\top / \sqrt{d}),\quad O = A V",
    paper="Vaswani and others 2017, arXiv:1706.03762",
    reads=READS,
    subject=lambda: (reference.load("transformer_softmax"), example("softmax").inputs[0]),
    code=CODE,
)
def self_attention_softmax() -> Shown:
    """Draw the last layer of a small image transformer."""
    return _show("softmax")


@register_card(
    "self_attention_relu",
    title="Self-attention, ReLU scores",
    family="sequence",
    sentence="With a ReLU instead of the softmax a token may look at nothing, and what it leaves "
    "out weighs exactly 0.",
    equation=r"A = \mathrm{relu}(Q K^\top / \sqrt{d}) / N,\quad O = A V",
    paper="Wortsman, Lee, Gilmer, Kornblith 2023, arXiv:2309.08586",
    reads=READS,
    subject=lambda: (reference.load("transformer_relu"), example("relu").inputs[0]),
    code=CODE,
)
def self_attention_relu() -> Shown:
    """Draw the last layer of the same transformer with ReLU scores."""
    return _show("relu")


def example(scores: str) -> TaskBatch:
    """Return a test digit among clutter that is read rightly and looked at."""
    return reference.sample(f"transformer_{scores}", 1, seed={"softmax": 3, "relu": 8}[scores])


def _show(scores: str) -> Shown:
    name = f"transformer_{scores}"
    model, batch = reference.load(name), example(scores)
    many = reference.measure(name, model, count=200)
    image, label, box = batch.inputs[0], int(batch.truth["label"]), batch.truth["box"]
    layers = inspection.inspect(model, image).of_kind("self")
    weights = layers[-1].read()
    grid = model.grid
    patches = weights[0, :, 0, 1:].mean(0)
    mask = box_mask(box, image.shape[-1], grid[0])[0].flatten()
    share = float((patches * mask).sum() / patches.sum().clamp_min(1e-9))
    even = float(mask.mean())
    zeros = float((weights == 0).double().mean())
    with torch.no_grad():
        said = int(model(image).logits.argmax())
    sums = weights[0, :, 0].sum(-1)
    return Shown(
        layer(
            weights[0], image[0], grid, box=box[0],
            title=f"Last layer of {len(layers)}; a {label} (dashed) read as {said}",
        ),
        weights,
        f"{share:.0%} of what the class token gives to patches is on the digit; even attention "
        f"would put {even:.0%} there (over 200 test images {many['cls_on_digit']:.0%}). "
        f"The rows sum to {sums.min():.2f} to {sums.max():.2f}, and "
        f"{zeros:.0%} of all weights of the layer are exactly 0.",
        "A digit among clutter under a map of patches, brighter on the digit than beside it on "
        "the whole, the matrix of all tokens, and each head's weights in falling order.",
        {"cls_on_digit": share, "even": even, "exact_zeros": zeros,
         "cls_on_digit_mean": many["cls_on_digit"]},
    )  # fmt: skip
