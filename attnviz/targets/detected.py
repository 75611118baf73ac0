"""One detection of a detector as target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..errors import TargetError
from ..geometry import Geometry
from ..models.classes import class_index
from ..models.detections import Detections, detections, overlaps
from .kinds import Target, bound, class_name
from .placed import Setting


@dataclass(frozen=True, eq=False)
class BoxTarget(Target):
    """The score of one detection, followed through the detector in one pass.

    The score is the probability of its class, for lists of detections (torchvision's) as their own
    post-processing gives it, for DETR-type ones of the query, for YOLO-type ones of the row.
    Several boxes of one photo, `classes=[BoxTarget(0), BoxTarget(3)]`, take one forward and a
    tail's backward each. Grad-CAM averages its weights over the picture and so marks other objects
    of the kind too; hirescam and layercam keep to the box.

    In altered copies of a photo (perturbation methods) the detection is looked for again: the
    score is the highest of intersection over union times the class's probability, 0 where there is
    none, as in D-RISE (Petsiuk et al. 2021, arXiv:2006.03204), with one class in place of the
    similarity of all. On the way to a baseline (integrated gradients) a query of DETR or a row of
    YOLO is followed itself, so that attributions sum to what its score changes by; of a list of
    detections, which come and go, they do not.

    Args:
        box: the detection's number in the model's output (torchvision sorts by score; of DETR's
            queries it is the number of the query), or x0, y0, x1, y1 in pixels of the photo: then
            the detection with the highest intersection over union.
        cls: with a box, detections of this class alone, by index or label.
        overlap: the least intersection over union, in (0, 1].

    Raises:
        TargetError: there is no such detection (the message lists the nearest), or the model's
            output holds none.

    Example:
        >>> target = BoxTarget((120, 80, 300, 260), "boat")
        >>> maps = explain(detector, photo, target=target)  # doctest: +SKIP
    """

    box: int | tuple[float, float, float, float]
    cls: int | str | None = None
    overlap: float = 0.5
    places: tuple[Geometry, ...] = ()
    image: int | None = None
    found: tuple[float, ...] = ()
    number: int | None = None
    index: int | None = None
    label: str = "box"
    row: bool = False
    labels: Sequence[str] | None = None

    needs_logits = False

    def __post_init__(self) -> None:
        box = self.box
        if isinstance(box, int):
            if not isinstance(box, bool) and box >= 0 and self.cls is None:
                return
        elif not isinstance(box, str) and len(box) == 4 and self.overlap > 0:
            x0, y0, x1, y1 = box
            if x0 < x1 and y0 < y1:
                return
        raise TargetError(
            f"a box is the number of a detection (0, 1, ..., which has a class of its own), or "
            f"x0, y0, x1, y1 with x0 < x1 and y0 < y1, got {self.box!r} and class {self.cls!r}"
        )

    def ready(self, setting: Setting) -> BoxTarget:
        """Return the target with where each input lies on its photo."""
        return self if self.places else replace(self, places=tuple(setting.places()))

    def matched(
        self, output: Any, batch: int, labels: Sequence[str] | None
    ) -> tuple[BoxTarget, ...]:
        """Return one target for each image, with the detection found in it."""
        if not self.places:
            raise TargetError("a box is made ready by `explain` only")
        seen = detections(output, self.places[0].input_size, labels)
        if len(seen) != batch:
            raise TargetError(f"the model gave detections for {len(seen)} of {batch} images")
        return tuple(self._matched(i, one, labels) for i, one in enumerate(seen))

    def _matched(self, image: int, seen: Detections, labels: Sequence[str] | None) -> BoxTarget:
        box = self.box
        number = box if isinstance(box, int) else self._nearest(image, box, seen, labels)
        if number >= len(seen.boxes):
            raise TargetError(
                f"box {number}: the model found {len(seen.boxes)} boxes in image {image}, counted "
                "from 0; torchvision's detectors leave out those below box_score_thresh"
            )
        index = int(seen.classes[number])
        if index < 0:
            raise TargetError(
                f"box {number} of image {image} is 'no object' to the model; queries with an "
                f"object: {(seen.classes >= 0).nonzero()[:8, 0].tolist() or 'none'}"
            )
        corners = tuple(seen.boxes[number].tolist())
        where = ", ".join(f"{value:.0f}" for value in self._on_photo(image, corners))
        return replace(
            self, image=image, found=corners, number=number, index=index, labels=labels,
            label=f"{class_name(index, labels)} at {where}",
        )  # fmt: skip

    def _nearest(
        self,
        image: int,
        box: tuple[float, float, float, float],
        seen: Detections,
        labels: Sequence[str] | None,
    ) -> int:
        place = self.places[image]
        x0, y0, x1, y1 = box
        wanted = seen.boxes.new_tensor([*place.to_input(x0, y0), *place.to_input(x1, y1)])
        usable = seen.classes >= 0
        if self.cls is not None:
            if isinstance(self.cls, int) or self.cls.strip().isdecimal():
                usable &= seen.classes == int(self.cls)
            else:
                usable &= seen.classes == class_index(self.cls, len(labels or ()), labels)
        common = overlaps(wanted, seen.boxes).where(usable, -1.0)
        if len(common) and common.max() >= self.overlap:
            # of equal boxes the one with the higher score
            best = (common >= common.max() - 1e-6).nonzero()[:, 0]
            return int(best[seen.scores.detach()[best].argmax()])
        near = common.argsort(descending=True)[:3].tolist()
        listed = "; ".join(
            f"{k}: {class_name(int(seen.classes[k]), labels)} at "
            f"{', '.join(f'{v:.0f}' for v in self._on_photo(image, seen.boxes[k].tolist()))} "
            f"(IoU {common[k]:.2f})"
            for k in near
            if usable[k]
        )
        raise TargetError(
            f"no detection of {len(seen.boxes)} in image {image} overlaps box "
            f"{tuple(box)}{f' of class {self.cls!r}' if self.cls is not None else ''} by "
            f"{self.overlap:g} or more; nearest: {listed or 'none'}"
        )

    def _on_photo(self, image: int, box: Sequence[float]) -> tuple[float, ...]:
        place = self.places[image]
        return (*place.to_image(*box[:2]), *place.to_image(*box[2:]))

    def copies(self, images: Sequence[int]) -> BoxTarget:
        """Return the target for altered copies, in which the detection is looked for again."""
        return replace(self, number=None)

    def followed(self, images: Sequence[int]) -> BoxTarget:
        """Return the target for copies on a way: the same query; of a list, as for copies."""
        return replace(self, row=True)

    def score(self, output: Any) -> Tensor:
        """Return the scores (B,): of a matched target, 0 for images other than its own."""
        if not self.found:
            raise TargetError("a box is matched by `explain` only")
        seen = detections(output, self.places[0].input_size, self.labels)
        if self.row and all(one.table is not None for one in seen):
            return torch.stack([one.of(bound(self.index))[bound(self.number)] for one in seen])
        if self.number is None or self.row:
            return torch.stack([self._again(one) for one in seen])
        own = seen[bound(self.image)].scores[self.number]
        return torch.stack([own if i == self.image else own * 0 for i in range(len(seen))])

    def _again(self, seen: Detections) -> Tensor:
        if not len(seen.boxes):
            return seen.scores.sum()
        common = overlaps(seen.boxes.new_tensor(self.found), seen.boxes)
        return (common * seen.of(bound(self.index))).max()

    def describe(self) -> Any:
        """Return number, class and box in pixels of the photo."""
        return {
            "box": [round(value, 3) for value in self._on_photo(bound(self.image), self.found)],
            "class": self.index,
            "number": self.number,
        }
