"""What a detector finds in each image: boxes, their classes and their scores, with their graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import TargetError
from ..hooks.outputs import wide

#: outputs whose last class is "no object", where nothing else tells
_NO_OBJECT = ("DetrObjectDetection", "YolosObjectDetection", "TableTransformerObjectDetection")
_SIGMOID = (
    *("ConditionalDetr", "DeformableDetr", "RTDetr", "DFine", "GroundingDino", "DabDetr"),
    *("OwlViT", "Owlv2", "LwDetr"),
)

#: what a list's entries call their boxes (corners in pixels), scores and classes
_PARTS = (
    ("boxes", "pred_boxes", "xyxy", "bboxes"),
    ("scores", "confidence", "conf"),
    ("labels", "pred_classes", "class_id", "classes", "cls"),
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

    Taken are a list with boxes (n, 4), scores (n,) and labels (n,) of each image, in mappings as
    torchvision gives them or in objects of another library (detectron2, Ultralytics, one's own);
    `logits` (B, queries, classes) beside `pred_boxes` (B, queries, 4) as DETR and those after it
    give them: centre, width and height as shares of the input; and, where labels say how many
    classes there are, the decoded tensor of YOLO-type models, (B, n, 4 + classes),
    (B, n, 5 + classes) with the object's own probability, or (B, 4 + classes, n).

    Args:
        output: the model's output.
        input_size: (H, W) of the model's input in pixels.
        labels: class names; they tell whether a DETR-type model has a class "no object", and what
            the columns of a YOLO-type model are.

    Raises:
        TargetError: the output holds no detections, or it is open which class is none.
    """
    if is_detections(output):
        return [_listed(one) for one in output]
    table = output[0] if isinstance(output, list | tuple) and output else output
    if isinstance(table, Tensor) and table.ndim == 3:
        return _yolo(table, input_size, labels)
    boxes = _named(output, "pred_boxes")
    logits = _named(output, "logits", "pred_logits")
    if boxes is None or logits is None or boxes.shape[:2] != logits.shape[:2]:
        raise TargetError(
            f"the model's output ({type(output).__name__}) holds no detections; a box as target "
            "needs a list with boxes, labels and scores for each image, or logits beside "
            "pred_boxes. A function of the output that returns (B,) scores does for any other"
        )
    corners = _corners(boxes, input_size)
    classes = logits.detach().argmax(-1)
    if _has_no_object(output, logits.shape[-1], labels):
        classes = classes.where(classes < logits.shape[-1] - 1, -1)
        table = logits.softmax(-1)[..., :-1]
    else:
        table = logits.sigmoid()
    scores = table.gather(-1, classes.clamp(min=0)[..., None])[..., 0]
    return [Detections(*parts) for parts in zip(corners, classes, scores, table, strict=True)]


def is_detections(output: Any) -> bool:
    """Say whether an output is a list of detections, one entry for each image."""
    return (
        isinstance(output, list | tuple)
        and bool(output)
        and all(_part(_inside(one), _PARTS[0]) is not None for one in output)
    )


def _part(one: Any, names: Sequence[str]) -> Any:
    if isinstance(one, Tensor):
        return None
    found = (one.get(n) if isinstance(one, Mapping) else getattr(one, n, None) for n in names)
    return next((value for value in found if value is not None), None)


def _inside(one: Any) -> Any:
    """Return what holds the boxes of an image: detectron2 wraps it, Ultralytics puts it inside."""
    wrapped = _part(one, ["instances"])
    one = one if wrapped is None else wrapped  # of no instances, which is false
    boxes = _part(one, ["boxes"])
    return boxes if _part(boxes, ["xyxy"]) is not None else one


def _listed(one: Any) -> Detections:
    one = _inside(one)
    boxes, scores, classes = (_part(one, names) for names in _PARTS)
    boxes = getattr(boxes, "tensor", boxes)  # detectron2's Boxes
    if not all(isinstance(part, Tensor) for part in (boxes, scores, classes)):
        held = one if isinstance(one, Mapping) else getattr(one, "__dict__", ["no attributes"])
        raise TargetError(
            f"a detection has boxes, labels and scores as tensors, got {type(one).__name__} with "
            f"{', '.join(sorted(map(str, held)))}"
        )
    return Detections(wide(boxes.detach()), classes.detach().long(), scores)


def _corners(boxes: Tensor, input_size: tuple[int, int] | None) -> Tensor:
    """Return x0, y0, x1, y1 of centre, width and height; of shares of the input in its pixels."""
    x, y, w, h = wide(boxes.detach()).unbind(-1)
    corners = torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], -1)
    if input_size is None:
        return corners
    height, width = input_size
    return corners * corners.new_tensor([width, height, width, height])


def _yolo(
    table: Tensor, input_size: tuple[int, int], labels: Sequence[str] | None
) -> list[Detections]:
    shape, count = tuple(table.shape), len(labels or ())
    extra = shape[2] - count
    if count and extra not in (4, 5) and shape[1] == count + 4:
        table, extra = table.transpose(1, 2), 4
    if not count or extra not in (4, 5):
        what = (
            f"the model's output {shape} holds boxes only if it is (B, n, 4 + classes), "
            "(B, n, 5 + classes) or (B, 4 + classes, n), as of a YOLO-type model, and "
        )
        counted = f"there are {count} labels" if count else ""
        raise TargetError(
            f"{what}{counted or 'labels= tell how many classes there are'}; a function of the "
            "output that returns (B,) scores does for any other",
            command=f"{what}{counted or '--labels tells how many classes there are'}",
        )
    boxes, scores = table[..., :4], table[..., extra:]
    if scores.min() < 0 or scores.max() > 1:
        raise TargetError(
            f"the scores in the model's output {shape} are no probabilities (from "
            f"{scores.min():.3g} to {scores.max():.3g}): it is not decoded yet. Run the detector "
            "as it predicts, or pass a function of the output that returns (B,) scores"
        )
    if extra == 5:
        scores = scores * table[..., 4:5]
    shares = bool(boxes.detach().abs().max() <= 2)  # of the input, not pixels
    corners = _corners(boxes, input_size if shares else None)
    classes = scores.detach().argmax(-1)
    best = scores.gather(-1, classes[..., None])[..., 0]
    return [Detections(*parts) for parts in zip(corners, classes, best, scores, strict=True)]


def _named(output: Any, *names: str) -> Tensor | None:
    found = _part(output, names)
    return found if isinstance(found, Tensor) else None


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
