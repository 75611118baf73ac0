"""What a detector finds in each image: boxes, their classes and their scores, with their graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import TargetError

#: outputs whose last class is "no object", where nothing else tells
_NO_OBJECT = ("DetrObjectDetection", "YolosObjectDetection", "TableTransformerObjectDetection")
_SIGMOID = (
    *("ConditionalDetr", "DeformableDetr", "RTDetr", "DFine", "GroundingDino", "DabDetr"),
    *("OwlViT", "Owlv2", "LwDetr"),
)


@dataclass(frozen=True, eq=False)
class Detections:
    """What was found in one image, in the order of the model's output.

    Attributes:
        boxes: (n, 4) x0, y0, x1, y1 in pixels of the model's input, without graph.
        classes: (n,) the likeliest class of each, int64; -1 is "no object".
        scores: (n,) the probability of that class, with its graph: after torchvision's own
            post-processing, or softmax or sigmoid of a DETR-type query.
        table: (n, classes) all probabilities of a DETR-type model; None where each box has one
            class.
    """

    boxes: Tensor
    classes: Tensor
    scores: Tensor
    table: Tensor | None = None

    def of(self, cls: int) -> Tensor:
        """Return the scores (n,) of one class; 0 for boxes that have another alone."""
        if self.table is not None:
            return self.table[:, cls]
        return self.scores.where(self.classes == cls, 0.0)


def detections(
    output: Any, input_size: tuple[int, int], labels: Sequence[str] | None = None
) -> list[Detections]:
    """Return what a detector found, one `Detections` for each image.

    Taken are torchvision's list of {boxes, labels, scores}, and `logits` (B, queries, classes)
    beside `pred_boxes` (B, queries, 4) as DETR and those after it give them: centre, width and
    height as shares of the input.

    Args:
        output: the model's output.
        input_size: (H, W) of the model's input in pixels.
        labels: class names; they tell whether a DETR-type model has a class "no object".

    Raises:
        TargetError: the output holds no detections, or it is open which class is none.
    """
    if is_detections(output):
        return [_torchvision(one) for one in output]
    boxes = _named(output, "pred_boxes")
    logits = _named(output, "logits", "pred_logits")
    if boxes is None or logits is None or boxes.shape[:2] != logits.shape[:2]:
        raise TargetError(
            f"the model's output ({type(output).__name__}) holds no detections; a box as target "
            "needs torchvision's list of {boxes, labels, scores}, or logits beside pred_boxes"
        )
    height, width = input_size
    x, y, w, h = boxes.detach().float().unbind(-1)
    corners = torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], -1)
    corners = corners * corners.new_tensor([width, height, width, height])
    classes = logits.detach().argmax(-1)
    if _has_no_object(output, logits.shape[-1], labels):
        classes = classes.where(classes < logits.shape[-1] - 1, -1)
        table = logits.softmax(-1)[..., :-1]
    else:
        table = logits.sigmoid()
    scores = table.gather(-1, classes.clamp(min=0)[..., None])[..., 0]
    return [Detections(*parts) for parts in zip(corners, classes, scores, table, strict=True)]


def is_detections(output: Any) -> bool:
    """Say whether an output is torchvision's list of detections."""
    return (
        isinstance(output, list | tuple)
        and bool(output)
        and all(isinstance(one, Mapping) and "boxes" in one for one in output)
    )


def _torchvision(one: Mapping[str, Tensor]) -> Detections:
    if "scores" not in one or "labels" not in one:
        raise TargetError(f"a detection has boxes, labels and scores, got {sorted(one)}")
    return Detections(one["boxes"].detach().float(), one["labels"], one["scores"])


def _named(output: Any, *names: str) -> Tensor | None:
    for name in names:
        found = output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)
        if isinstance(found, Tensor):
            return found
    return None


def _has_no_object(output: Any, width: int, labels: Sequence[str] | None) -> bool:
    if labels and len(labels) in (width, width - 1):
        return len(labels) == width - 1
    name = type(output).__name__
    if name.startswith(_SIGMOID):
        return False
    if name.startswith(_NO_OBJECT):
        return True
    raise TargetError(
        f"whether the last of the {width} logits of {name} means 'no object' is not known: pass "
        f"labels= with the names of all classes ({width - 1}, or {width} if there is no such class)"
    )


def overlaps(box: Tensor, boxes: Tensor) -> Tensor:
    """Return the intersection over union (n,) of one box (4,) with others (n, 4), in [0, 1]."""
    low, high = torch.maximum(box[:2], boxes[:, :2]), torch.minimum(box[2:], boxes[:, 2:])
    common = (high - low).clamp(min=0).prod(1)
    area = (box[2:] - box[:2]).clamp(min=0).prod() + (boxes[:, 2:] - boxes[:, :2]).clamp(
        min=0
    ).prod(1)
    return common / (area - common).clamp(min=1e-9)
