"""Cut-outs and backgrounds from a folder of photographs with masks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from attnviz.data.boatwater.arrays import ELSEWHERE, LAND, WATER
from attnviz.data.dataset import Dataset
from attnviz.data.masks import mask_box
from attnviz.data.sample import Sample
from attnviz.errors import DataError

#: what stands for itself and may be cut out, in the words of the usual datasets
THINGS = (
    *("cow", "horse", "sheep", "cat", "dog", "bird", "elephant", "bear", "zebra", "giraffe"),
    *("aeroplane", "airplane", "car", "bus", "truck", "train", "bicycle", "motorbike"),
    *("motorcycle", "bench", "chair"),
)
#: what is painted over, or keeps a photo from being a background, but is not cut out
PEOPLE = ("person", "people", "body", "face", "hand")
#: what makes a place land
GROUND = ("grass", "road", "land", "sand", "field", "street", "building", "tree", "mountain")
#: the part of it that things stand on
FLOOR = ("grass", "road", "land", "sand", "field", "street")


@dataclass(frozen=True, eq=False)
class CutOut:
    """One thing, cut out of a photo.

    Attributes:
        pixels: (h, w, 3) uint8 RGB; beyond the mask its own edge colours go on.
        mask: (h, w) bool.
        kind: class name.
        source: the photo's source.
    """

    pixels: np.ndarray
    mask: np.ndarray
    kind: str
    source: str


@dataclass(frozen=True, eq=False)
class Background:
    """A photo whose things are painted over.

    Attributes:
        pixels: (h, w, 3) uint8 RGB.
        region: (h, w) uint8: elsewhere, land or water, as in `GroupedImages.region`.
        floor: (h, w) bool, where an object may stand or float.
        water: whether the place is the water (else the land).
        source: the photo's source.
        painted: (h, w) bool, what was painted over.
    """

    pixels: np.ndarray
    region: np.ndarray
    floor: np.ndarray
    water: bool
    source: str
    painted: np.ndarray


@dataclass(frozen=True, eq=False)
class Material:
    """All cut-outs and backgrounds of a dataset, and why the rest was left out."""

    objects: tuple[CutOut, ...]
    others: tuple[CutOut, ...]
    water: tuple[Background, ...]
    land: tuple[Background, ...]
    left_out: dict[str, int]

    def of_sources(self, sources: Iterable[str]) -> Material:
        """Return what comes from the given sources."""
        keep = set(sources)
        parts = (
            tuple(p for p in part if p.source in keep)
            for part in (self.objects, self.others, self.water, self.land)
        )
        return Material(*parts, left_out={})

    def counts(self) -> dict[str, int]:
        """Return the number of cut-outs and backgrounds of each kind."""
        return {
            "object cut-outs": len(self.objects),
            "other cut-outs": len(self.others),
            "water backgrounds": len(self.water),
            "land backgrounds": len(self.land),
        }


def harvest(
    dataset: Dataset,
    *,
    object: str = "boat",
    context: str = "water",
    others: Sequence[str] | None = None,
    land: Sequence[str] | None = None,
    min_pixels: int = 450,
    min_share: float = 0.3,
    max_painted: float = 0.2,
    object_photos: bool = False,
    seed: int = 0,
) -> Material:
    """Cut things out of photos, and make backgrounds of photos by painting things over.

    A cut-out is one connected part of a class's mask (or one instance's mask). It is left out if
    it is small, sparse, or torn (more than a sixth of its outline is the photo's border). A photo
    is a background if `min_share` of it is context (or ground, and then no context at all), no
    object is in it, and its things cover at most `max_painted`. Every background also has a
    decoy painted over, in the shape of some cut-out, so that painting tells nothing.

    Args:
        dataset: samples with masks of the classes named.
        object: the class of the boats.
        context: the class of the water.
        others: classes to cut out as "other"; None takes those of `THINGS` that occur.
        land: classes that make land; None takes those of `GROUND` that occur.
        min_pixels: smallest area of a cut-out, in pixels of its photo.
        min_share: smallest share of a background that is context or ground.
        max_painted: largest share of a background that its things cover.
        object_photos: let photos of the object be backgrounds too, with the object painted over;
            more backgrounds, at the risk that traces of it remain.
        seed: of the decoys.

    Raises:
        DataError: a class is not in the dataset, object is context, or nothing is found.
    """
    if object == context:
        raise DataError(f"object and context are both {object!r}; they must be two classes")
    for name in (object, context, *(others or ()), *(land or ())):
        dataset.class_index(name)
    others = tuple(others or (n for n in THINGS if n in dataset.classes and n != object))
    land = tuple(land or (n for n in GROUND if n in dataset.classes and n != context))
    if not others or not land:
        raise DataError(
            f"no classes to cut out as 'other' ({others}) or that make land ({land}) among "
            f"{', '.join(dataset.classes)}; name them with others=[...] and land=[...]"
        )
    left_out: Counter[str] = Counter()
    objects, rest, raw = [], [], []
    for sample in dataset:
        named = [n for n in (object, *others) if n in sample.labels and sample.has_mask(n)]
        people = [n for n in PEOPLE if n in sample.labels and sample.has_mask(n)]
        pixels = sample.read()
        things = np.zeros(pixels.shape[:2], bool)
        for name in (*named, *people):
            mask = sample.mask(name)
            things |= mask
            if name in people:
                continue
            for part in _parts(sample, name, mask):
                why = _fault(part, min_pixels)
                if why:
                    left_out[f"cut-out of {name}: {why}"] += 1
                    continue
                (objects if name == object else rest).append(
                    _cut(pixels, part, name, sample.source)
                )
        why, on_water = _fitness(sample, things, context, land, min_share, max_painted)
        if object in sample.labels and not object_photos:
            why = f"{object} in it"
        if not why:
            raw.append((sample, things, on_water))
        else:
            left_out[f"background: {why}"] += 1
    water = [b for b in raw if b[2]]
    grounds = [b for b in raw if not b[2]]
    found = Material(tuple(objects), tuple(rest), (), (), dict(left_out))
    for name, part in (
        (f"cut-out of {object!r}", objects),
        (f"cut-out of {others}", rest),
        (f"background of {context!r} without {object!r}", water),
        (f"background of {land}", grounds),
    ):
        if not part:
            raise DataError(f"no {name} in {len(dataset)} photos; left out: {dict(left_out)}")
    rng = np.random.default_rng(seed)
    shapes = [c.mask for c in (*objects, *rest)]
    made = [
        _paint_over(sample, things, is_water, context, land, shapes, rng)
        for sample, things, is_water in raw
    ]
    return Material(
        found.objects,
        found.others,
        tuple(b for b in made if b.water),
        tuple(b for b in made if not b.water),
        dict(left_out),
    )


def _parts(sample: Sample, name: str, mask: np.ndarray) -> list[np.ndarray]:
    """Return the masks of single things: the instances' own, else connected parts."""
    single = [b for b in sample.boxes if b.label == name and b.mask is not None and not b.crowd]
    if single:
        return [b.mask.read(mask.shape) for b in single]
    count, numbers, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    return [numbers == k for k in range(1, count) if stats[k, cv2.CC_STAT_AREA] >= 30]


def _fault(part: np.ndarray, min_pixels: int) -> str:
    """Return why a mask makes no good cut-out, or an empty string."""
    area = int(part.sum())
    if area < min_pixels:
        return "too small"
    x0, y0, x1, y1 = mask_box(part)
    if area < 0.2 * (x1 - x0) * (y1 - y0):
        return "too sparse"
    outline, _ = cv2.findContours(part.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    border = part[0].sum() + part[-1].sum() + part[:, 0].sum() + part[:, -1].sum()
    return "torn by the border" if border > sum(map(len, outline)) / 6 else ""


def _cut(pixels: np.ndarray, part: np.ndarray, name: str, source: str) -> CutOut:
    # The outermost pixels are half background; they are cut off.
    part = cv2.erode(part.astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=1).astype(bool)
    x0, y0, x1, y1 = (int(v) for v in mask_box(part))
    pad = 6
    window = np.s_[
        max(y0 - pad, 0) : min(y1 + pad, part.shape[0]),
        max(x0 - pad, 0) : min(x1 + pad, part.shape[1]),
    ]
    mask = part[window]
    return CutOut(extend_colours(pixels[window], mask), mask.copy(), name, source)


def extend_colours(pixels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return pixels whose colours beyond the mask are those of its nearest edge, blurred."""
    weight = mask.astype(np.float32)
    colours = pixels.astype(np.float32) * weight[..., None]
    filled = colours.copy()
    known = weight > 0
    for sigma in (1.5, 4.0, 16.0, 64.0):
        near = cv2.GaussianBlur(weight, (0, 0), sigma)
        blurred = cv2.GaussianBlur(colours, (0, 0), sigma)
        fresh = ~known & (near > 1e-3)
        filled[fresh] = blurred[fresh] / near[fresh][:, None]
        known |= fresh
    return np.where(mask[..., None], pixels, np.clip(np.rint(filled), 0, 255).astype(np.uint8))


def _fitness(
    sample: Sample,
    things: np.ndarray,
    context: str,
    land: Sequence[str],
    min_share: float,
    max_painted: float,
) -> tuple[str, bool]:
    """Return why a photo is no background, or an empty string; and whether it is the context."""

    def share(names: Sequence[str]) -> float:
        here = [n for n in names if n in sample.labels and sample.has_mask(n)]
        return sum(float(sample.mask(n).mean()) for n in here)

    on_water = context in sample.labels
    if things.mean() > max_painted:
        return "too much to paint over", on_water
    ground = share(land)
    wet = share((context,))
    if (wet if on_water else ground) < min_share:
        return f"too little {context if on_water else 'ground'}", on_water
    if on_water and wet < ground:
        return f"more ground than {context}", on_water
    return "", on_water


def _paint_over(
    sample: Sample,
    things: np.ndarray,
    is_water: bool,
    context: str,
    land: Sequence[str],
    shapes: Sequence[np.ndarray],
    rng: np.random.Generator,
) -> Background:
    pixels = sample.read()
    height, width = things.shape
    region = np.full((height, width), ELSEWHERE, np.uint8)
    floor = np.zeros((height, width), bool)
    for name in land:
        if sample.has_mask(name):
            region[sample.mask(name)] = LAND
            if name in FLOOR:
                floor |= sample.mask(name)
    if sample.has_mask(context):
        region[sample.mask(context)] = WATER
    # A rim of unlabelled pixels belongs to most things: shadows, legs, antennas.
    rim = cv2.dilate(things.astype(np.uint8), np.ones((9, 9), np.uint8)).astype(bool)
    painted = things | (rim & (region == ELSEWHERE))
    painted = cv2.dilate(painted.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
    shape = shapes[int(rng.integers(len(shapes)))].astype(np.uint8)
    scale = float(np.sqrt(rng.uniform(0.02, 0.05) * height * width / shape.sum()))
    shape = cv2.resize(shape, None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)
    shape = shape[: height - 2, : width - 2]
    top = int(rng.integers(height - shape.shape[0]))
    left = int(rng.integers(width - shape.shape[1]))
    painted[top : top + shape.shape[0], left : left + shape.shape[1]] |= shape.astype(bool)
    filled = cv2.inpaint(pixels, painted.astype(np.uint8), 4, cv2.INPAINT_TELEA)
    # What lies under a thing is taken to be what surrounds it.
    numbers = cv2.distanceTransformWithLabels(
        painted.astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )[1]
    nearest = np.zeros(int(numbers.max()) + 1, np.uint8)
    nearest[numbers[~painted]] = region[~painted]
    nearest_floor = np.zeros(len(nearest), bool)
    nearest_floor[numbers[~painted]] = floor[~painted]
    floor = np.where(painted, nearest_floor[numbers], floor)
    region = np.where(painted, nearest[numbers], region).astype(np.uint8)
    if is_water or not floor.any():
        floor = region == (WATER if is_water else LAND)
    return Background(filled, region, floor, is_water, sample.source, painted)
