"""A digit somewhere on a cluttered canvas: do glimpses, patches and tokens go to the digit?"""

from __future__ import annotations

from torch import Generator, Tensor

from ..modules.dynamic_capacity import DynamicCapacityNetwork
from ..modules.glimpses import RecurrentAttention
from ..modules.self_attention import ImageTransformer
from .base import Task, TaskBatch
from .canvas import box_mask, cluttered, inside

SIDE, SIZE = 40, 16


def sample(count: int, generator: Generator, training: bool) -> TaskBatch:
    """16-pixel digits on 40-pixel canvases, with four 7-pixel pieces of other digits."""
    image, label, box, centre = cluttered(
        count, generator, training, side=SIDE, size=SIZE, pieces=4
    )
    return TaskBatch((image,), {"label": label, "box": box, "centre": centre})


def accuracy(logits: Tensor, batch: TaskBatch) -> float:
    """Share of right classes."""
    return float((logits.argmax(1) == batch.truth["label"]).double().mean())


def chance(boxes: Tensor) -> float:
    """Share of the canvas that is digit: where a blind glimpse would land."""
    return float(box_mask(boxes, SIDE, SIDE).mean())


def ram_measure(model: RecurrentAttention, batch: TaskBatch) -> dict[str, float]:
    """Accuracy, and the share of glimpses (after the given first) centred on the digit."""
    path = model(*batch.inputs)
    hits = inside(path.locations, batch.truth["box"], SIDE).double()
    gap = (path.locations[:, -1] - batch.truth["centre"]).norm(dim=1) * SIDE / 2
    return {
        "accuracy": accuracy(path.logits, batch),
        "on_digit": float(hits[:, 1:].mean()),
        "on_digit_last": float(hits[:, -1].mean()),
        "on_digit_chance": chance(batch.truth["box"]),
        "last_glimpse_from_centre_pixels": float(gap.mean()),
    }


def dcn_measure(model: DynamicCapacityNetwork, batch: TaskBatch) -> dict[str, float]:
    """Accuracy with and without the fine model; share of chosen cells centred on the digit."""
    out = model(*batch.inputs)
    cells = SIDE // model.cell
    points = (out.chosen.flip(-1) + 0.5) / cells * 2 - 1
    hits = inside(points, batch.truth["box"], SIDE).double()
    return {
        "accuracy": accuracy(out.logits, batch),
        "accuracy_coarse": accuracy(out.coarse_logits, batch),
        "on_digit": float(hits.mean()),
        "on_digit_first": float(hits[:, 0].mean()),
        "on_digit_chance": chance(batch.truth["box"]),
    }


def transformer_measure(model: ImageTransformer, batch: TaskBatch) -> dict[str, float]:
    """Accuracy; share of the class token's patch attention, last layer, that is on the digit."""
    out = model(*batch.inputs)
    patches = out.attention[:, -1, :, 0, 1:].mean(1)
    mask = box_mask(batch.truth["box"], SIDE, model.grid[0]).flatten(1)
    energy = (patches * mask).sum(1) / patches.sum(1).clamp_min(1e-9)
    return {
        "accuracy": accuracy(out.logits, batch),
        "cls_on_digit": float(energy.mean()),
        "cls_on_digit_chance": chance(batch.truth["box"]),
        "exact_zeros": float((out.attention == 0).double().mean()),
    }


TASKS = [
    Task(
        "ram",
        "A digit among clutter; after one look from the centre the glimpses go to the digit.",
        lambda: RecurrentAttention(size=8, scales=3, glimpses=5, hidden=128, std=0.2),
        sample,
        ram_measure,
        {"accuracy": 0.8, "on_digit": 0.7},
    ),
    Task(
        "dcn",
        "A digit among clutter; the entropy's gradient sends the fine model to the digit.",
        DynamicCapacityNetwork,
        sample,
        dcn_measure,
        {"accuracy": 0.8, "on_digit": 0.6},
    ),
    *(
        Task(
            f"transformer_{scores}",
            f"A digit among clutter; the class token's {scores} attention lands on the digit.",
            lambda scores=scores: ImageTransformer(side=SIDE, patch=5, dim=40, scores=scores),
            sample,
            transformer_measure,
            {"accuracy": 0.8, "cls_on_digit": on_digit},
        )
        # a head's ReLU row need not attend at all, so that less of the sum is the digit's;
        # the digit is 0.16 of the canvas
        for scores, on_digit in (("softmax", 0.4), ("relu", 0.33))
    ),
]
