"""What the cards of sequence alignments share: a sentence, its alignment read, its picture."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ... import inspection
from .. import modules as reference
from ..card import Shown
from ..drawings.alignments import aligned
from ..modules.local_attention import LocalAttention
from ..tasks.base import TaskBatch

CODE = """
import attnviz, torch
steps = attnviz.inspect(model, example).of_kind("cross")  # one a written word
weights = torch.cat([step.read() for step in steps], 2)[:, 0]  # (B, target, source)
"""
READS = "softmax over the source at each step of the decoder, (B, 1, 1, source)"


def sentence(name: str) -> TaskBatch:
    """Return the test sentence, one of 40, in which most words change places."""
    batch = reference.sample(name, 40)
    index = batch.truth["crossing"].sum(1).argmax()
    one = batch.take(index[None])
    length = len(one.text["source"][0])
    truth = {key: value[:, : length + 1] for key, value in one.truth.items()}
    return TaskBatch((one.inputs[0][:, :length],), truth, one.text)


def subject(name: str) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    """The translator, and the sentence with its translation that the card shows."""
    batch = sentence(name)
    return reference.load(name), (batch.inputs[0], batch.truth["target"])


def read(model: nn.Module, source: Tensor, target: Tensor) -> Tensor:
    """Read the alignment (B, T, S) of a decoder through the inventory, one step after another."""
    steps = inspection.inspect(model, (source, target)).of_kind("cross")
    return torch.cat([step.read() for step in steps], 2)[:, 0]


def show(name: str, what: str) -> Shown:
    """Return the alignment of a trained translator on that sentence.

    Args:
        name: of the reference.
        what: the score, as the title says it.
    """
    model, batch = reference.load(name), sentence(name)
    weights = read(model, batch.inputs[0], batch.truth["target"])
    source, target = batch.text["source"][0], [*batch.text["target"][0], "(end)"]
    origin, crossing = batch.truth["origin"][0], batch.truth["crossing"][0]
    word = origin >= 0
    right = weights[0].argmax(1) == origin
    numbers = {
        "aligned": float(right[word].double().mean()),
        "aligned_crossing": float(right[crossing].double().mean()),
        "mass_on_source": on_source(weights, origin),
    }
    local, middle, reach = getattr(model, "attend", None), None, None
    if isinstance(local, LocalAttention):
        middle, reach = centres(model, local, batch), local.reach
    figure = aligned(
        weights[0], source, target, origin=[[o] if o >= 0 else [] for o in origin.tolist()],
        title=f"{what}: toy English to toy French", centres=middle, half=reach,
    )  # fmt: skip
    hits, count = int(right[word].sum()), int(word.sum())
    caption = (
        f"{hits} of {count} words look most at the word they translate; of the "
        f"{int(crossing.sum())} that change places, noun and colour, {int(right[crossing].sum())}."
    )
    crosses = "crosses itself"
    if numbers["aligned_crossing"] < 0.5:
        crosses = "does not cross itself"
        caption += (
            " A place chosen from the state alone cannot depend on what stands there, so the "
            "weights walk along the diagonal and spread where words swap."
        )
    if middle is not None and reach is not None:
        outside = (torch.arange(len(source)) - middle[:, None]).abs() > reach
        numbers["outside_window"] = float(weights[0][outside].sum())
        everywhere = on_source(
            read(reference.load("luong_general"), batch.inputs[0], batch.truth["target"]), origin
        )
        numbers["mass_on_source_global"] = everywhere
        caption += (
            f" Outside the window of {2 * reach + 1} the weight is exactly 0. On their source "
            f"words lie {numbers['mass_on_source']:.0%} of the weight; global attention with the "
            f"same score weighs all {len(source)} words and puts {everywhere:.0%} there."
        )
    return Shown(
        figure,
        weights,
        caption,
        f"A matrix of {len(target)} written words by {len(source)} source words: a bright diagonal "
        f"that {crosses} where a noun and its colour swap.",
        numbers,
    )


def on_source(weights: Tensor, origin: Tensor) -> float:
    """Return the mean weight (1, T, S) of the words at their own source; origin (T,), -1: none."""
    held = weights[0].gather(1, origin.clamp_min(0)[:, None])[:, 0]
    return float(held[origin >= 0].mean())


@torch.no_grad()
def centres(model: nn.Module, local: LocalAttention, batch: TaskBatch) -> Tensor:
    """Return p_t (T,) of local attention, as the module computes it at each step."""
    found: list[Tensor] = []

    def note(_module: nn.Module, inputs: Any) -> None:
        found.append(local.centre(inputs[0], inputs[2], inputs[3]))

    handle = local.register_forward_pre_hook(note)
    try:
        model(batch.inputs[0], batch.truth["target"])
    finally:
        handle.remove()
    return torch.cat(found)
