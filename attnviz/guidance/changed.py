"""Images whose context was changed: the objects exchanged, pasted back, or left alone.

They are made of annotated images and nothing else. In training they teach that the answer goes
with the object; made of validation images they show whether it does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..errors import DataError, MissingFile
from .batches import Batch
from .exchanging import emptied, exchange, seam_control
from .survey import MOST_KEPT, Survey, read


@dataclass(frozen=True, eq=False)
class Cuts:
    """Annotated images, ready to be cut apart.

    Attributes:
        images: (N, C, H, W).
        masks: (N, H, W), the object; for images of an absent object the outline of another's.
        labels: (N,).
        real: (N,) bool, the mask is of an object of that image.
        grounds: versions (N, C, H, W) with the object erased where there is one.
    """

    images: Tensor
    masks: Tensor
    labels: Tensor
    real: Tensor
    grounds: tuple[Tensor, ...]

    @property
    def classes(self) -> list[int]:
        """Classes that objects or grounds are there of."""
        return self.labels.unique().tolist()


#: how `fit` exchanges where it is not told otherwise, see `Exchanges`
EXCHANGE = {
    "place": "anywhere", "scale": (0.5, 1.5), "flip": True, "grow": None, "edge": 1,
    "fill": ("blur", "inpaint"), "jitter": 0.3, "alone": 0.3,
}  # fmt: skip


def cuts_of(
    data: Any,
    known: Survey | None,
    *,
    seed: int,
    grow: int | None = None,
    fills: Sequence[str] = ("blur",),
) -> Cuts | None:
    """Return a dataset's annotated images; None where no two classes can be exchanged.

    Args:
        data: map-style.
        known: what it holds.
        seed: of the images kept, where there are many, and of borrowed outlines.
        grow: pixels by which an object's mask is grown before it is erased; None is a 32nd of the
            shorter side (7 of 224).
        fills: of `erasing.FILLS`, one version of the grounds by each.
    """
    if known is None or not exchangeable(known):
        return None
    draws = torch.Generator().manual_seed(seed)
    kept = []
    for label in known.labels.unique().tolist():
        rows = (known.regions & (known.labels == label)).nonzero()[:, 0]
        if label in known.absent:
            rows = (known.labels == label).nonzero()[:, 0]
        kept += rows[torch.randperm(len(rows), generator=draws)][:MOST_KEPT].tolist()
    images, masks, labels = [], [], []
    for row in kept:
        try:
            one = read(data, [row])
        except MissingFile:  # said where the images themselves are read
            continue
        images.append(one.images[0])
        labels.append(int(one.labels[0]))
        masks.append((one.annotation.target * one.annotation.known)[0] > 0.5)
    if not images:
        return None
    stacked, number = torch.stack(images), torch.tensor(labels)
    found = torch.stack(masks)
    absent = torch.isin(number, torch.tensor(sorted(known.absent), dtype=torch.int64))
    real = found.flatten(1).any(1) & ~absent
    outlines = real.nonzero()[:, 0]
    if not len(outlines):
        return None
    for row in absent.nonzero()[:, 0].tolist():  # a patch in the outline of some object
        pick = int(torch.randint(len(outlines), (), generator=draws))
        found[row] = found[outlines[pick]]
    keep = real | absent
    stacked, found, number, real = stacked[keep], found[keep].float(), number[keep], real[keep]
    if len(number.unique()) < 2:
        return None
    if grow is None:
        grow = max(1, round(min(stacked.shape[-2:]) / 32))
    grounds = []
    for fill in fills:
        ground = stacked.clone()
        ground[real] = emptied(stacked[real], found[real], grow=grow, fill=fill, generator=draws)
        grounds.append(ground)
    return Cuts(stacked, found, number, real, tuple(grounds))


def exchangeable(known: Survey) -> bool:
    """Whether objects of two classes, or of one and images without it, are there."""
    able = {c for c in known.counts() if bool((known.regions & (known.labels == c)).any())}
    return bool(able - known.absent) and len(able | (known.absent & set(known.counts()))) > 1


#: numbers in all exchanged images together, up to which they are kept (64 MB)
MOST_NUMBERS = 2**24


class Exchanges:
    """Exchanged images without end but repeatable: the i-th is made when it is asked for.

    Args:
        cuts: of the training images.
        count: how many there are to be.
        seed: of pairs, places, sizes and colours.
        options: of `exchange` (place, scale, flip, edge); "jitter", the largest relative change
            of brightness and contrast, and of twice as much in saturation; and "alone", the share
            of objects without any ground, on grey or noise.
    """

    def __init__(self, cuts: Cuts, count: int, options: Mapping[str, Any], *, seed: int) -> None:
        self.cuts, self.count, self.seed = cuts, count, seed
        own = {**EXCHANGE, **options}
        self.jitter, self.alone = float(own["jitter"]), float(own["alone"])
        names = ("place", "flip", "edge")
        self.options: dict[str, Any] = {n: own[n] for n in names} | {"scale": tuple(own["scale"])}
        classes = cuts.labels.unique().tolist()
        self.rows = {c: (cuts.labels == c).nonzero()[:, 0].tolist() for c in classes}
        #: small images are kept, since they are asked for again and again
        self.keep = count * cuts.images[0].numel() <= MOST_NUMBERS
        self.kept: dict[tuple[int, bool], tuple[Tensor, int, Any]] = {}

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> tuple[Tensor, int, Any]:
        return self.example(i)

    def example(self, i: int, *, mirrored: bool = False) -> tuple[Tensor, int, Any]:
        """Return (image, label, mask or None), mirrored or not."""
        if (i, mirrored) in self.kept:
            return self.kept[i, mirrored]
        made = self._made(i, mirrored)
        if self.keep:
            self.kept[i, mirrored] = made
        return made

    def _made(self, i: int, mirrored: bool) -> tuple[Tensor, int, Any]:
        draws = torch.Generator().manual_seed(self.seed * 1_000_003 + i)

        def draw(upto: int) -> int:
            return int(torch.randint(upto, (), generator=draws))

        classes = list(self.rows)
        first = classes.pop(draw(len(classes)))
        second = classes[draw(len(classes))]
        pair = [self.rows[c][draw(len(self.rows[c]))] for c in (first, second)]
        cuts = self.cuts
        grounds = cuts.grounds[draw(len(cuts.grounds))][pair]
        if float(torch.rand((), generator=draws)) < self.alone:
            grounds = _plain(grounds, draws)
        made = exchange(
            cuts.images[pair], cuts.masks[pair], cuts.labels[pair], count=1, grounds=grounds,
            generator=draws, **self.options,
        )  # fmt: skip
        image, mask = made.images[0], made.masks[0].clamp(0, 1)
        if self.jitter:
            image = _jittered(image, self.jitter, draws)
        if mirrored:
            image, mask = image.flip(-1), mask.flip(-1)
        real = bool(cuts.real[pair[int(made.donors[0])]]) and bool((mask > 0).any())
        return image, int(made.labels[0]), mask if real else None


def _plain(grounds: Tensor, draws: torch.Generator) -> Tensor:
    """Grounds of one colour, or coarse noise about it: nothing that a class could be known by."""
    mean = grounds.mean((2, 3), keepdim=True)
    spread = grounds.flatten(2).std(2)[..., None, None]
    side = (1, 4, 16)[int(torch.randint(3, (), generator=draws))]
    noise = torch.randn(*grounds.shape[:2], side, side, generator=draws).to(grounds)
    coarse = torch.nn.functional.interpolate(noise, grounds.shape[-2:], mode="bilinear")
    return mean + spread * coarse


def _jittered(image: Tensor, most: float, draws: torch.Generator) -> Tensor:
    """Change brightness, contrast and saturation; in whatever scale the image is."""
    light, contrast, colour = (2 * torch.rand(3, generator=draws) - 1).tolist()
    middle, spread = image.mean(), image.std()
    grey = image.mean(0, keepdim=True)
    image = grey + (1 + min(2 * most, 1) * colour) * (image - grey)
    return middle + most * light * spread + (1 + most * contrast) * (image - middle)


class Made:
    """Images that were put together, as a dataset: (image, label, mask or None).

    Attributes:
        images, masks, labels: (K, C, H, W), (K, H, W), (K,).
        real: (K,) bool, the mask is of an object.
        sources: (K,) rows of the images that the objects are from.
    """

    def __init__(
        self, images: Tensor, masks: Tensor, labels: Tensor, real: Tensor, sources: Tensor
    ) -> None:
        self.images, self.masks, self.labels = images, masks.clamp(0, 1), labels
        self.real, self.sources = real, sources

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Tensor, int, Any]:
        return self.example(i)

    def example(self, i: int, *, mirrored: bool = False) -> tuple[Tensor, int, Any]:
        """Return one example as it is, or mirrored."""
        image, mask = self.images[i], self.masks[i]
        if mirrored:
            image, mask = image.flip(-1), mask.flip(-1)
        return image, int(self.labels[i]), mask if self.real[i] else None


def changed_of(cuts: Cuts, *, seed: int, each: int) -> dict[str, Made]:
    """Return a set's images under changed context, by what was changed.

    "exchanged" has objects where they stood, in front of other classes' grounds, `each` for every
    image cut; "pasted back" every object on its own emptied ground, the traces of pasting and
    nothing exchanged; "alone" every object with the image's mean colour around it.
    """
    draws = torch.Generator().manual_seed(seed + 1)
    given = (cuts.images, cuts.masks, cuts.labels)
    count = each * len(cuts.labels)
    made = exchange(*given, count=count, grounds=cuts.grounds[0], generator=draws)
    back = seam_control(*given, grounds=cuts.grounds[0], generator=draws)
    rows = cuts.real.nonzero()[:, 0]
    images, masks = cuts.images[rows], cuts.masks[rows][:, None]
    flat = masks * images + (1 - masks) * images.mean((2, 3), keepdim=True)
    real = cuts.real
    return {
        "exchanged": Made(made.images, made.masks, made.labels, real[made.donors], made.donors),
        "pasted back": Made(back.images, back.masks, back.labels, real, back.donors),
        "alone": Made(flat, masks[:, 0], cuts.labels[rows], real[rows], rows),
    }


def joined(first: Batch, second: Batch) -> Batch:
    """Return two batches as one; a mean over it is the sum of the two's means."""
    a, b = _weighed(first.annotation, second), _weighed(second.annotation, first)
    if a.target.shape[-2:] != b.target.shape[-2:]:
        raise DataError("images of a batch and exchanged ones differ in size")
    names = ("target", "known", "kind", "weights")
    both = {n: torch.cat([getattr(a, n), getattr(b, n)]) for n in names}
    images = torch.cat([first.images, second.images])
    labels = torch.cat([first.labels, second.labels])
    return Batch(images, labels, type(a)(**both))


def _weighed(annotation: Any, other: Batch) -> Any:
    own, more = int(annotation.present.sum()), int(other.annotation.present.sum())
    if not own or not more:
        return annotation
    return replace(annotation, weights=annotation.weights * (own + more) / own)
