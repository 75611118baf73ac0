"""What an audit reads of each image: the model's input, where object and context are, its group."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data import BoxMask, Dataset, Sample
from ..data.prepared import Prepared
from ..data.splitting import content_hash
from ..errors import DataError, did_you_mean
from ..geometry import Geometry

#: the context that needs no name in the data: all that is not the object
BACKGROUND = "background"
#: share of an image from which on a mask that a function gave counts as the context being there
PRESENT = 0.02
REGIONS = ("auto", "masks", "boxes", "groups")


@dataclass(frozen=True, eq=False, kw_only=True)
class AuditPicture(Prepared):
    """One image as the model sees it.

    Attributes:
        index: its number in the data.
        id, source, background: names; images of one source or background are one cluster.
        has_object, has_context: its group.
        object_mask, context_mask: (H, W) bool at the input's size; None where not known. The
            context's never covers the object's.
        rest: the context is all that is not the object.
        occupied: (H, W) bool at the input's size, where other objects are known to be: nothing is
            transplanted there; None where there are none.
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
    rest: bool = False
    occupied: Tensor | None = None
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


class PictureReader:
    """Turns samples into pictures.

    Args:
        data: samples.
        object, context: class names; the context `BACKGROUND` is all that is not the object, and
            there in the images that show the object.
        regions: "masks", "boxes", "groups" (no regions), or "auto": of each image its mask, or its
            boxes where there is no mask. An image with neither counts in its group alone.
        prepare: photo -> (tensor, Geometry).
        context_masks: a function photo (h, w, 3) uint8 -> (h, w) bool or share: where the context
            is, such as a segmentation model.

    Attributes:
        annotated: of the images that show the object, how many have "masks", "boxes" alone, and
            "none" (what `regions` leaves out counts as none).
        masks_from: what made masks of object or context that no person drew -> how many.

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
        known |= set(getattr(data, "classes", ()))
        self.rest = context == BACKGROUND
        if self.rest and context_masks is not None:
            raise DataError(
                "context_masks paints a context that has a name; give it: context= (--context)"
            )
        given = context_masks is not None or self.rest
        asked = (object,) if given else (object, context)
        for name in asked:
            if name not in known - {""}:
                raise DataError(
                    f"{name!r} is no class of the data{did_you_mean(name, known) or '.'} It has: "
                    f"{', '.join(sorted(known - {''})[:40])}"
                )
        self._by_label = {name: labels[name] > 0 for name in (object, context)}
        if regions == "auto":
            kinds = [name for name, has in (("masks", masks), ("boxes", boxes)) if has[object]]
            regions = ", ".join(kinds) or "groups"
        elif regions != "groups" and not (masks if regions == "masks" else boxes)[object]:
            raise DataError(
                f"no image has {regions} of {object!r}; give the folder with them (masks=...), or "
                "audit by groups alone (regions='groups', --groups)"
            )
        self.regions = regions
        made = Counter(s.mask_source(n) for s in data for n in (object, context))
        self.masks_from = {name: count for name, count in made.items() if name}
        showing = [self.kind_of(s) for s in data if self.presence(s)[0]]
        self.annotated = {kind: showing.count(kind) for kind in ("masks", "boxes", "none")}
        if self.rest and regions == "groups":
            raise DataError(
                f"no image says where {object!r} is, so what is around it is not known either; "
                "give masks of some (masks=..., --masks), or name a context that the data labels"
            )

    def kind_of(self, sample: Sample) -> str:
        """Return what says where the object is in an image: "masks", "boxes" or "none"."""
        if "masks" in self.regions and sample.has_mask(self.object):
            return "masks"
        if "boxes" in self.regions and any(b.label == self.object for b in sample.boxes):
            return "boxes"
        return "none"

    def presence(self, sample: Sample) -> tuple[bool, bool | None]:
        """Return whether object and context are in an image; None: a mask must be looked at."""
        found: list[bool | None] = []
        for name in (self.object,) if self.rest else (self.object, self.context):
            if self._by_label[name]:
                found.append(name in sample.labels or name in sample.group.split("/"))
            elif name == self.context and (self._context_masks or sample.has_mask(name)):
                found.append(None)
            else:
                found.append(any(b.label == name for b in sample.boxes) or sample.has_mask(name))
        return bool(found[0]), found[-1]

    def read(self, index: int) -> AuditPicture:
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
        return AuditPicture(
            **vars(seen), index=index, id=sample.id, source=sample.source,
            background=str(sample.meta.get("background", sample.source)),
            has_object=has_object, has_context=has_context, object_mask=inside,
            context_mask=around, rest=self.rest, occupied=self._occupied(sample, seen),
            digest=content_hash(seen.photo)[:24],
        )  # fmt: skip

    def locates_others(self, sample: Sample) -> bool:
        """Return whether an image says where things other than the object and context are."""
        named = (None, self.object, self.context)
        by_mask = sample.label not in named and sample.has_mask(str(sample.label))
        return by_mask or any(b.label not in named for b in sample.boxes)

    def _occupied(self, sample: Sample, seen: Prepared) -> Tensor | None:
        """Where boxes and the mask of the image's own label say that other things are."""
        others = [b for b in sample.boxes if b.label not in (self.object, self.context)]
        size = seen.photo.shape[:2]
        found = np.zeros(size, bool)
        for box in others:
            found |= (box.mask or BoxMask(box.coordinates)).read(size)
        own = sample.label
        if own not in (None, self.object, self.context) and sample.has_mask(own):
            found |= sample.mask(own)
        return seen.mask(found) if found.any() else None

    def _regions(
        self, sample: Sample, photo: np.ndarray, has_object: bool, has_context: bool | None
    ) -> tuple[np.ndarray | None, np.ndarray | None]:
        on_object = on_context = None
        kind = self.kind_of(sample) if has_object else "none"
        if kind != "none":
            read = sample.mask if kind == "masks" else sample.box_mask
            on_object = read(self.object)
        if on_object is not None and not on_object.any():
            raise DataError(
                f"sample {sample.id!r} is said to show {self.object!r} but its mask (from "
                f"{kind}) is empty: it misses the object"
            )
        if self.rest:
            return on_object, None if on_object is None else ~on_object
        if self._context_masks is not None and has_context is not False:
            on_context = self._callable(self._context_masks, sample, photo)
        elif self.regions != "groups" and has_context is not False:
            if sample.has_mask(self.context):
                on_context = sample.mask(self.context)
                if has_context and not on_context.any():
                    raise DataError(
                        f"sample {sample.id!r} is said to show {self.context!r} but its mask is "
                        "empty: it misses the context"
                    )
            elif "boxes" in self.regions and any(b.label == self.context for b in sample.boxes):
                on_context = sample.box_mask(self.context)
        return on_object, on_context

    @staticmethod
    def _callable(
        masks: Callable[[np.ndarray], np.ndarray], sample: Sample, photo: np.ndarray
    ) -> np.ndarray:
        found = np.asarray(masks(photo))
        if found.shape != photo.shape[:2]:
            raise DataError(
                f"context_masks gave shape {found.shape} for sample {sample.id!r}, expected "
                f"{photo.shape[:2]}: one value a pixel of the photo"
            )
        return found if found.dtype == bool else found >= 0.5


def unit_range(photo: np.ndarray) -> tuple[Tensor, Geometry]:
    """Return a photo (h, w, 3) uint8 as (3, h, w) in 0..1, and its geometry: itself."""
    tensor = torch.from_numpy(np.ascontiguousarray(photo.transpose(2, 0, 1))).float().div_(255)
    return tensor, Geometry.identity(*photo.shape[:2])
