"""What an audit reads of each image: the model's input, where object and context are, its group."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from ..data import Dataset, Sample
from ..data.prepared import Prepared
from ..data.splitting import content_hash
from ..errors import DataError, did_you_mean
from ..geometry import Geometry

#: share of an image from which on a mask that a function gave counts as the context being there
PRESENT = 0.02
REGIONS = ("auto", "masks", "boxes", "groups")


@dataclass(frozen=True, eq=False, kw_only=True)
class Picture(Prepared):
    """One image as the model sees it.

    Attributes:
        index: its number in the data.
        id, source, background: names; images of one source or background are one cluster.
        has_object, has_context: its group.
        object_mask, context_mask: (H, W) bool at the input's size; None where not known. The
            context's never covers the object's.
        digest: of the photo's pixels.
    """

    index: int
    id: str
    source: str
    background: str
    has_object: bool
    has_context: bool
    object_mask: Tensor | None
    context_mask: Tensor | None
    digest: str

    @property
    def group(self) -> int:
        """2 * object + context."""
        return 2 * self.has_object + self.has_context


def as_samples(data: Any) -> Sequence[Sample]:
    """Return the data of an audit as a sequence of samples.

    Raises:
        DataError: it is none, or empty.
    """
    if hasattr(data, "dataset") and hasattr(data, "region"):
        data = data.dataset()
    if isinstance(data, list | tuple) and data and all(isinstance(s, Sample) for s in data):
        classes = tuple(sorted({label for s in data for label in s.labels}))
        data = Dataset(tuple(data), classes)
    if not hasattr(data, "__len__") or not hasattr(data, "__getitem__"):
        raise DataError(
            f"an audit takes a Dataset, samples or GroupedImages, got {type(data).__name__}; "
            "attnviz.data.open_dataset reads folders, COCO, VOC and CSV"
        )
    if len(data) == 0:
        raise DataError("the data holds no image")
    if not isinstance(data[0], Sample):
        raise DataError(f"an audit takes samples, the first of these is {type(data[0]).__name__}")
    return data


class Reader:
    """Turns samples into pictures.

    Args:
        data: samples.
        object, context: class names.
        regions: "masks", "boxes", "groups" (no regions), or "auto": masks where there are any,
            else boxes, else none.
        prepare: photo -> (tensor, Geometry).
        context_masks: a function photo (h, w, 3) uint8 -> (h, w) bool or share: where the context
            is, such as a segmentation model.

    Raises:
        DataError: object = context, or names that do not occur.
    """

    def __init__(
        self,
        data: Sequence[Sample],
        object: str,
        context: str,
        *,
        regions: str = "auto",
        prepare: Callable[[np.ndarray], tuple[Tensor, Geometry]],
        context_masks: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> None:
        if regions not in REGIONS:
            raise DataError(f"regions={regions!r} is not one of {', '.join(REGIONS)}")
        if object == context:
            raise DataError(
                f"object and context are both {object!r}: the audit sets one against the other"
            )
        self.data, self.object, self.context = data, object, context
        self._prepare, self._context_masks = prepare, context_masks
        labels: Counter[str] = Counter()
        masks: Counter[str] = Counter()
        boxes: Counter[str] = Counter()
        for sample in data:
            labels.update(set(sample.labels) | set(sample.group.split("/")))
            masks.update(list(sample.masks))
            boxes.update({b.label for b in sample.boxes})
        known = set(labels) | set(masks) | set(boxes)
        if hasattr(data, "classes"):
            known |= set(data.classes)
        asked = (object,) if context_masks is not None else (object, context)
        for name in asked:
            if name not in known - {""}:
                raise DataError(
                    f"{name!r} is no class of the data{did_you_mean(name, known)} It has: "
                    f"{', '.join(sorted(known - {''})[:40])}"
                )
        self._by_label = {name: labels[name] > 0 for name in (object, context)}
        if regions == "auto":
            regions = "masks" if masks[object] else "boxes" if boxes[object] else "groups"
        elif regions != "groups" and not (masks if regions == "masks" else boxes)[object]:
            raise DataError(
                f"no image has {regions} of {object!r}; give the folder with them (masks=...), or "
                "audit by groups alone (regions='groups', --groups)"
            )
        self.regions = regions

    def presence(self, sample: Sample) -> tuple[bool, bool | None]:
        """Return whether object and context are in an image; None: a mask must be looked at."""
        found = []
        for name in (self.object, self.context):
            if self._by_label[name]:
                found.append(name in sample.labels or name in sample.group.split("/"))
            elif name == self.context and (self._context_masks or sample.has_mask(name)):
                found.append(None)
            else:
                found.append(any(b.label == name for b in sample.boxes) or sample.has_mask(name))
        return bool(found[0]), found[1]

    def read(self, index: int) -> Picture:
        """Read one image.

        Raises:
            DataError: an unreadable file, a mask that misses or does not fit.
        """
        sample = self.data[index]
        seen = Prepared.read(sample, self._prepare)
        has_object, has_context = self.presence(sample)
        on_object, on_context = self._regions(sample, seen.photo, has_object, has_context)
        if has_context is None:
            has_context = on_context is not None and float(on_context.mean()) >= PRESENT
            on_context = on_context if has_context else None
        inside = None if on_object is None else seen.mask(on_object)
        around = None if on_context is None else seen.mask(on_context)
        if inside is not None and around is not None:
            around = around & ~inside
        return Picture(
            **vars(seen), index=index, id=sample.id, source=sample.source,
            background=str(sample.meta.get("background", sample.source)),
            has_object=has_object, has_context=has_context, object_mask=inside,
            context_mask=around, digest=content_hash(seen.photo)[:24],
        )  # fmt: skip

    def _regions(
        self, sample: Sample, photo: np.ndarray, has_object: bool, has_context: bool | None
    ) -> tuple[np.ndarray | None, np.ndarray | None]:
        on_object = on_context = None
        if self.regions == "masks" and has_object:
            if not sample.has_mask(self.object):
                raise DataError(
                    f"sample {sample.id!r} is said to show {self.object!r} but has no mask of it; "
                    "add the mask, leave the image out, or audit by groups alone"
                )
            on_object = sample.mask(self.object)
        elif self.regions == "boxes" and has_object:
            on_object = sample.box_mask(self.object)
        if on_object is not None and not on_object.any():
            raise DataError(
                f"sample {sample.id!r} is said to show {self.object!r} but its mask (from "
                f"{self.regions}) is empty: it misses the object"
            )
        if self._context_masks is not None and has_context is not False:
            on_context = self._callable(sample, photo)
        elif self.regions != "groups" and has_context is not False:
            if sample.has_mask(self.context):
                on_context = sample.mask(self.context)
                if has_context and not on_context.any():
                    raise DataError(
                        f"sample {sample.id!r} is said to show {self.context!r} but its mask is "
                        "empty: it misses the context"
                    )
            elif self.regions == "boxes" and any(b.label == self.context for b in sample.boxes):
                on_context = sample.box_mask(self.context)
        return on_object, on_context

    def _callable(self, sample: Sample, photo: np.ndarray) -> np.ndarray:
        found = np.asarray(self._context_masks(photo))
        if found.shape != photo.shape[:2]:
            raise DataError(
                f"context_masks gave shape {found.shape} for sample {sample.id!r}, expected "
                f"{photo.shape[:2]}: one value a pixel of the photo"
            )
        return found if found.dtype == bool else found >= 0.5
