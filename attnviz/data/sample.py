"""One annotated image, whatever the dataset that it comes from."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from ..errors import DataError, MissingFile, did_you_mean
from .masks import BoxMask, MaskSource, UnionMask
from .packed import PackedImage

_EMPTY: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Box:
    """A labelled box, half-open in pixels: it covers [x0, x1) x [y0, y1).

    Pixel i spans [i, i + 1), so a box around the single pixel (3, 5) is (3, 5, 4, 6), width is
    x1 - x0, and a box over the whole image is (0, 0, width, height).

    Attributes:
        crowd: the box stands for many things at once (COCO's `iscrowd`).
        mask: the mask of this one thing, where the dataset has it.
    """

    x0: float
    y0: float
    x1: float
    y1: float
    label: str = ""
    crowd: bool = False
    mask: MaskSource | None = field(default=None, compare=False, repr=False)

    @property
    def coordinates(self) -> tuple[float, float, float, float]:
        """(x0, y0, x1, y1)."""
        return self.x0, self.y0, self.x1, self.y1

    @property
    def area(self) -> float:
        """Pixels squared."""
        return (self.x1 - self.x0) * (self.y1 - self.y0)

    def checked(self, size: tuple[int, int] | None, where: str) -> Box:
        """Return the box clipped to the image; up to one pixel may be clipped, more raises.

        Args:
            size: (height, width) of the image, or None where it is not known yet.
            where: what an error calls the image.
        """
        numbers = self.coordinates
        if not all(math.isfinite(n) for n in numbers):
            raise DataError(f"{where}: box {numbers} holds a number that is not finite")
        if self.x1 <= self.x0 or self.y1 <= self.y0:
            raise DataError(
                f"{where}: box {numbers} is empty; expected x0 < x1 and y0 < y1 in pixels, "
                f"half-open (x0, y0, x1, y1)"
            )
        if size is None:
            return self
        height, width = size
        if self.x0 < -1 or self.y0 < -1 or self.x1 > width + 1 or self.y1 > height + 1:
            raise DataError(
                f"{where}: box {numbers} (x0, y0, x1, y1) lies outside the image of width {width} "
                f"and height {height}; are the numbers pixels of this image, not relative, "
                f"not (x, y, width, height)?"
            )
        clipped = (
            max(self.x0, 0.0),
            max(self.y0, 0.0),
            min(self.x1, float(width)),
            min(self.y1, float(height)),
        )
        if clipped[0] >= clipped[2] or clipped[1] >= clipped[3]:
            raise DataError(f"{where}: box {numbers} has no pixel inside the image")
        if clipped == numbers:
            return self
        return replace(self, **dict(zip(("x0", "y0", "x1", "y1"), clipped, strict=True)))


@dataclass(frozen=True, eq=False)
class Sample:
    """One image with what is known of it. Pixels and masks are read when asked for.

    Attributes:
        id: unique in its dataset (the relative path, or the annotation's id).
        image: the file, the pixels themselves as (h, w, 3) uint8 RGB, or where an encoded image
            lies in a larger file.
        label: the class of the whole image, or None (detection and segmentation data).
        labels: all classes that are known to be in the image, `label` among them.
        boxes: half-open pixel boxes.
        masks: class name to where it is; `mask(name)` reads one.
        source: what the image was made from. Images of one source (frames of a video, crops of a
            photo, cut-outs) never go to different splits. The image's own id unless given.
        split: "train", "validation", "test" ..., where the dataset says so.
        group: a subgroup named by the dataset ("boat/land"), or "".
        size: (height, width) as the annotation states it, checked when the image is read.
        meta: anything else the dataset says (author, licence, attribution).
    """

    id: str
    image: Path | np.ndarray | PackedImage
    label: str | None = None
    labels: tuple[str, ...] = ()
    boxes: tuple[Box, ...] = ()
    masks: Mapping[str, MaskSource] = field(default_factory=lambda: _EMPTY)
    source: str = ""
    split: str | None = None
    group: str = ""
    size: tuple[int, int] | None = None
    meta: Mapping[str, Any] = field(default_factory=lambda: _EMPTY)

    def __post_init__(self) -> None:
        if not self.source:
            object.__setattr__(self, "source", self.id)
        if self.label is not None and self.label not in self.labels:
            object.__setattr__(self, "labels", (self.label, *self.labels))
        if isinstance(self.image, np.ndarray):
            if self.image.dtype != np.uint8 or self.image.ndim != 3 or self.image.shape[2] != 3:
                raise DataError(
                    f"sample {self.id!r}: image is {self.image.dtype} {self.image.shape}, expected "
                    f"uint8 (height, width, 3) RGB; or give a path"
                )
            if self.size is None:
                object.__setattr__(self, "size", self.image.shape[:2])
        where = f"sample {self.id!r}"
        object.__setattr__(self, "boxes", tuple(b.checked(self.size, where) for b in self.boxes))

    def __repr__(self) -> str:
        image = "array" if isinstance(self.image, np.ndarray) else str(self.image)
        return (
            f"Sample({self.id!r}, image={image}, label={self.label!r}, labels={self.labels}, "
            f"{len(self.boxes)} boxes, {len(self.masks)} masks, source={self.source!r})"
        )

    def read(self) -> np.ndarray:
        """Return the pixels, (h, w, 3) uint8 RGB, EXIF orientation applied.

        Raises:
            DataError: the file is missing, unreadable, or of another size than stated.
        """
        if isinstance(self.image, np.ndarray):
            return self.image.copy()
        from ..errors import ImageError
        from ..images import read_image

        source: Any = self.image
        if isinstance(source, Path) and not os.path.isfile(source):  # also of too long a name
            raise MissingFile(f"sample {self.id!r}: image {self.image} does not exist")
        try:
            pixels = read_image(source if isinstance(source, Path) else source.read_bytes())
        except (ImageError, OSError) as fault:
            raise MissingFile(f"sample {self.id!r}: {fault}") from fault
        if self.size is not None and pixels.shape[:2] != tuple(self.size):
            raise DataError(
                f"sample {self.id!r}: image {self.image} is {pixels.shape[0]} x {pixels.shape[1]} "
                f"pixels (height x width), its annotation says {self.size[0]} x {self.size[1]}; "
                f"boxes and masks would be misplaced, so annotate the image as it is"
            )
        return pixels

    def image_size(self) -> tuple[int, int]:
        """Return (height, width) in pixels: as stated, else read from the file's header."""
        if self.size is not None:
            return self.size
        if isinstance(self.image, np.ndarray):
            return self.image.shape[0], self.image.shape[1]
        from ..errors import ImageError
        from ..images import open_image

        try:
            with (
                open(self.image, "rb") if isinstance(self.image, Path)
                else io.BytesIO(self.image.read_bytes())
            ) as file:  # fmt: skip
                picture = open_image(file, str(self.image))
                turned = picture.getexif().get(0x0112, 1) in (5, 6, 7, 8)
                width, height = picture.size
        except FileNotFoundError:
            raise MissingFile(f"sample {self.id!r}: image {self.image} does not exist") from None
        except (ImageError, OSError, ValueError) as fault:
            what = f"sample {self.id!r}: {self.image} cannot be read: {fault}"
            raise MissingFile(what) from fault
        size = (width, height) if turned else (height, width)
        object.__setattr__(self, "size", size)  # a cache: the file states the same each time
        return size

    def mask(self, name: str) -> np.ndarray:
        """Return where class `name` is, (h, w) bool. A class without a mask here raises."""
        if name not in self.masks:
            raise DataError(
                f"sample {self.id!r} has no mask of {name!r}{did_you_mean(name, self.masks)}; "
                f"it has {sorted(self.masks) or 'none'}"
            )
        try:
            return self.masks[name].read(self.image_size())
        except MissingFile as fault:
            raise MissingFile(f"sample {self.id!r}, mask {name!r}: {fault}") from fault
        except (DataError, TypeError, ValueError, OverflowError) as fault:
            raise DataError(f"sample {self.id!r}, mask {name!r}: {fault}") from fault

    def has_mask(self, name: str) -> bool:
        """Return whether `mask(name)` can be asked for."""
        return name in self.masks

    def mask_source(self, name: str) -> str:
        """Return what made the mask of class `name`: a map, a segmenter; "" for people."""
        return str(self.meta.get("masks_from", {}).get(name, "")) if self.has_mask(name) else ""

    def box_mask(self, name: str) -> np.ndarray:
        """Return the union of the boxes of class `name`, (h, w) bool; all False without any."""
        size = self.image_size()
        mask = UnionMask(()).read(size)
        for box in self.boxes:
            if box.label == name:
                mask |= BoxMask(box.coordinates).read(size)
        return mask

    def check(self) -> None:
        """Read the image, every box and every mask; the first fault raises `DataError`."""
        size = self.read().shape[:2]
        for box in self.boxes:
            box.checked(size, f"sample {self.id!r}")
            if box.mask is not None:
                box.mask.read(size)
        for name in self.masks:
            self.mask(name)
