"""Images of the four groups object x context, in memory, with masks and where they come from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import DataError, OutputExists
from ..dataset import Dataset
from ..masks import ArrayMask
from ..sample import Sample

if TYPE_CHECKING:
    import torch

#: the values of `GroupedImages.region`
ELSEWHERE, LAND, WATER, OBJECT = 0, 1, 2, 3
REGIONS = ("elsewhere", "land", "water", "object")
#: label 0 and 1
CLASSES = ("other", "boat")
#: context 0 and 1
CONTEXTS = ("land", "water")
#: group = 2 * label + context
GROUPS = ("other/land", "other/water", "boat/land", "boat/water")


@dataclass(frozen=True, eq=False)
class GroupedImages:
    """N images, each of one object in one context.

    Attributes:
        images: (N, h, w, 3) uint8 RGB.
        region: (N, h, w) uint8: 0 elsewhere (sky), 1 land, 2 water, 3 the object.
        label: (N,) int64, 1 = boat, 0 = other.
        context: (N,) int64, 1 = water, 0 = land.
        source: N names of what the object was taken from. Images of one source belong together.
        background: N names of what the background was taken from.
        kind: N names of what the object is ("sailboat", "cow").
        plain: the same images without the object, where it was asked for; (N, h, w, 3) uint8.
        meta: how they were made (seed, protocol), ready for JSON.
    """

    images: np.ndarray
    region: np.ndarray
    label: np.ndarray
    context: np.ndarray
    source: tuple[str, ...]
    background: tuple[str, ...]
    kind: tuple[str, ...]
    plain: np.ndarray | None = None
    meta: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        n = len(self.images)
        shapes = {
            "images": (self.images.shape, (*self.region.shape, 3)),
            "label": (self.label.shape, (n,)),
            "context": (self.context.shape, (n,)),
            "source": ((len(self.source),), (n,)),
            "background": ((len(self.background),), (n,)),
            "kind": ((len(self.kind),), (n,)),
        }
        for name, (got, expected) in shapes.items():
            if got != expected:
                raise DataError(f"GroupedImages: {name} has shape {got}, expected {expected}")

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        size = "x".join(map(str, self.images.shape[1:3]))
        return f"GroupedImages({len(self)} images of {size}, {self.group_counts()})"

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of label 0 and 1."""
        return CLASSES

    @property
    def group(self) -> np.ndarray:
        """(N,) int64: 2 * label + context; names in `GROUPS`."""
        return 2 * self.label + self.context

    @property
    def object_mask(self) -> np.ndarray:
        """(N, h, w) bool: the pixels of the object."""
        return self.region == OBJECT

    @property
    def water_mask(self) -> np.ndarray:
        """(N, h, w) bool: visible water; nowhere in an image on land."""
        return self.region == WATER

    @property
    def land_mask(self) -> np.ndarray:
        """(N, h, w) bool: visible land, shores of a lake among it."""
        return self.region == LAND

    @property
    def context_mask(self) -> np.ndarray:
        """(N, h, w) bool: visible water in images on water, visible land in images on land."""
        wanted = np.where(self.context == 1, WATER, LAND).astype(np.uint8)
        return self.region == wanted[:, None, None]

    def group_counts(self) -> dict[str, int]:
        """Return group name -> number of images."""
        counts = np.bincount(self.group, minlength=4)
        return dict(zip(GROUPS, counts.tolist(), strict=True))

    def object_area(self) -> float:
        """Return the mean share of an image that the object covers: the chance level of energy."""
        return float((self.region == OBJECT).mean())

    def co_occurrence(self) -> float:
        """Return the share of images that are a boat on water or another object on land."""
        return float((self.label == self.context).mean()) if len(self) else float("nan")

    def subset(self, indices: Iterable[int] | np.ndarray) -> GroupedImages:
        """Return the images at `indices` (or where a bool array is True)."""
        chosen = np.asarray(indices if isinstance(indices, np.ndarray) else list(indices))
        chosen = np.flatnonzero(chosen) if chosen.dtype == bool else chosen.astype(int)
        return replace(
            self,
            images=self.images[chosen],
            region=self.region[chosen],
            label=self.label[chosen],
            context=self.context[chosen],
            source=tuple(self.source[i] for i in chosen),
            background=tuple(self.background[i] for i in chosen),
            kind=tuple(self.kind[i] for i in chosen),
            plain=None if self.plain is None else self.plain[chosen],
        )

    def tensors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (N, 3, h, w) float32 in 0..1 and (N,) int64 labels."""
        import torch

        pixels = torch.from_numpy(np.ascontiguousarray(self.images.transpose(0, 3, 1, 2)))
        return pixels.float().div_(255), torch.from_numpy(self.label.astype(np.int64))

    def dataset(self) -> Dataset:
        """Return the images as a `Dataset` with masks "boat" or "other", "water" and "land"."""
        samples = []
        for i in range(len(self)):
            name = CLASSES[self.label[i]]
            region = self.region[i]
            masks = {
                name: ArrayMask(region == OBJECT),
                "water": ArrayMask(region == WATER),
                "land": ArrayMask(region == LAND),
            }
            samples.append(
                Sample(
                    id=f"{i:06d}",
                    image=self.images[i],
                    label=name,
                    labels=(name, CONTEXTS[self.context[i]]),
                    masks=masks,
                    source=self.source[i],
                    group=GROUPS[self.group[i]],
                    meta={"background": self.background[i], "kind": self.kind[i]},
                )
            )
        return Dataset(tuple(samples), (*CLASSES, *CONTEXTS))

    def write(self, folder: str | Path, *, force: bool = False) -> Path:
        """Write PNG images, label images and index.json, readable by `open_dataset`.

        Args:
            folder: made where it is missing.
            force: write into a folder that holds an index.json already.

        Returns:
            The path of index.json.

        Raises:
            OutputExists: there is one already and `force` is not set.
        """
        from PIL import Image

        folder = Path(folder)
        index = folder / "index.json"
        if index.exists() and not force:
            raise OutputExists(f"{index} exists; choose another folder or pass force=True")
        (folder / "images").mkdir(parents=True, exist_ok=True)
        (folder / "masks").mkdir(exist_ok=True)
        # In the file the object's pixels carry its class, so that masks are by name.
        values = {"land": 1, "water": 2, "other": 3, "boat": 4}
        entries = []
        for i in range(len(self)):
            name = CLASSES[self.label[i]]
            numbers = np.where(self.region[i] == OBJECT, values[name], self.region[i])
            image, mask = f"images/{i:06d}.png", f"masks/{i:06d}.png"
            Image.fromarray(self.images[i]).save(folder / image)
            Image.fromarray(numbers.astype(np.uint8)).save(folder / mask)
            area = {n: round(float((numbers == v).mean()), 4) for n, v in values.items()}
            entries.append(
                {
                    "image": image,
                    "mask": mask,
                    "height": int(self.images.shape[1]),
                    "width": int(self.images.shape[2]),
                    "area": {n: a for n, a in area.items() if a},
                    "label": name,
                    "group": GROUPS[self.group[i]],
                    "source": self.source[i],
                }
            )
        document = {
            "classes": {str(v): n for n, v in values.items()},
            "void": 0,
            "made_by": dict(self.meta),
            "images": entries,
        }
        index.write_text(json.dumps(document, indent=1), encoding="utf-8")
        return index


def contact_sheet(images: np.ndarray, *, columns: int = 10, gap: int = 2) -> np.ndarray:
    """Return the images (N, h, w, 3) uint8 side by side in rows, white between them."""
    n, height, width, _ = images.shape
    rows = -(-n // columns)
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), 255, np.uint8)
    for i, image in enumerate(images):
        y, x = gap + i // columns * (height + gap), gap + i % columns * (width + gap)
        sheet[y : y + height, x : x + width] = image
    return sheet
