"""Splits that do not leak: divided by source, balanced by label, duplicates found by content."""

from __future__ import annotations

import hashlib
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import AttnvizWarning, DataError, MissingFile
from .dataset import Dataset
from .sample import Sample

#: bits of 128 that two hashes of near duplicates may differ by
_HASH_BITS = 10
#: levels that their colour thumbnails (mean 0, deviation 50) may differ by: on average, and all but
#: the worst fiftieth; a small boat on the same sea is no duplicate of that sea
_LEVELS, _WORST = 4.0, 15.0


@dataclass(frozen=True)
class Duplicate:
    """Two images that show the same.

    Attributes:
        first, second: positions in the list that was searched.
        exact: the pixels are identical; else they look alike (resized, recompressed, brightened).
    """

    first: int
    second: int
    exact: bool


def content_hash(image: np.ndarray) -> str:
    """Return the SHA-256 of an image's size and pixels, whatever file they were stored in."""
    digest = hashlib.sha256(str((image.shape, image.dtype.str)).encode())
    digest.update(np.ascontiguousarray(image).tobytes())
    return digest.hexdigest()


def _fingerprint(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return 128 bits of the signs of horizontal and vertical differences, and a thumbnail."""
    import cv2

    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    small = cv2.resize(grey, (9, 9), interpolation=cv2.INTER_AREA)
    bits = np.concatenate(
        [(small[:8, 1:] > small[:8, :-1]).ravel(), (small[1:, :8] > small[:-1, :8]).ravel()]
    )
    thumbnail = cv2.resize(image, (16, 16), interpolation=cv2.INTER_AREA).astype(np.float32)
    thumbnail -= thumbnail.mean()
    spread = thumbnail.std()
    thumbnail *= 50.0 / spread if spread > 1 else 1.0
    return np.packbits(bits), thumbnail.astype(np.float16)


def find_duplicates(samples: Iterable[Sample], *, near: bool = True) -> list[Duplicate]:
    """Find images that occur twice, identical or nearly so. Reads every image once.

    Near duplicates are found by a 128-bit difference hash and confirmed by comparing thumbnails,
    so two different photos of one plain sky are told apart where their pixels differ visibly.
    Memory: 1.6 KB an image.

    Args:
        samples: the images.
        near: also find images that merely look the same (resized, recompressed, brightened). A
            mirrored or cropped copy is not found.

    Returns:
        Pairs in order; of n identical images, each later one is paired with the first.
    """
    first: dict[str, int] = {}
    found, kept, thumbnails = [], [], []
    prints: list[np.ndarray] = []
    for index, sample in enumerate(samples):
        try:
            image = sample.read()
        except MissingFile:  # said by whoever looks at it
            continue
        key = content_hash(image)
        if key in first:
            found.append(Duplicate(first[key], index, True))
            continue
        first[key] = index
        if not near:
            continue
        bits, thumbnail = _fingerprint(image)
        if kept:
            apart_in = np.bitwise_xor(np.asarray(prints), bits).view(np.uint8)
            distance = np.unpackbits(apart_in, axis=1).sum(1)
            for j in np.flatnonzero(distance <= _HASH_BITS):
                apart = np.abs(thumbnails[j].astype(np.float32) - thumbnail)
                if apart.mean() <= _LEVELS and np.quantile(apart, 0.98) <= _WORST:
                    found.append(Duplicate(kept[j], index, False))
                    break
        kept.append(index)
        prints.append(bits)
        thumbnails.append(thumbnail)
    return found


def refuse_leaks(
    parts: Mapping[str, Iterable[Sample]], *, near: bool = True, pixels: bool = True
) -> None:
    """Raise if two parts of a dataset share an image: by id and source, or by what it shows.

    Args:
        parts: name of the part ("train", "test") -> its samples.
        near: see `find_duplicates`.
        pixels: False compares ids and sources only, without reading an image.

    Raises:
        DataError: with the shared images (the first five) and where they are.
    """
    held = {name: list(samples) for name, samples in parts.items()}
    owner: dict[str, str] = {}
    for name, samples in held.items():
        shared = {s.source for s in samples if owner.get(s.source, name) != name}
        if shared:
            example = sorted(shared)[0]
            raise DataError(
                f"leak: {len(shared)} sources are both in {owner[example]!r} and in {name!r}, the "
                f"first {example!r}; split by source (attnviz.data.splits does)"
            )
        owner.update((s.source, name) for s in samples)
    if not pixels:
        return
    flat = [(name, s) for name, samples in held.items() for s in samples]
    pairs = find_duplicates([s for _, s in flat], near=near)
    leaks = [p for p in pairs if flat[p.first][0] != flat[p.second][0]]
    if leaks:
        shown = "; ".join(
            f"{flat[p.first][0]}/{flat[p.first][1].id} "
            f"{'=' if p.exact else '~'} {flat[p.second][0]}/{flat[p.second][1].id}"
            for p in leaks[:5]
        )
        raise DataError(
            f"leak: {len(leaks)} images of one part show the same as an image of another "
            f"(= identical, ~ alike): {shown}; remove them, or give both the same source"
        )


def _default_label(sample: Sample) -> Hashable:
    return sample.label if sample.label is not None else sample.labels


def splits(
    dataset: Dataset,
    fractions: Mapping[str, float] | None = None,
    *,
    seed: int = 0,
    stratify: Callable[[Sample], Hashable] = _default_label,
    duplicates: str = "refuse",
    near: bool = True,
) -> dict[str, Dataset]:
    """Divide a dataset so that each source lies in one part and each label in all, by its share.

    Args:
        dataset: what to divide; samples of one `source` stay together.
        fractions: name -> share, adding up to 1. Default: train 0.6, validation 0.2, test 0.2.
        seed: the same seed gives the same parts, whatever the order of the samples.
        stratify: the label to balance; default the image's label, else its set of labels.
        duplicates: images that show the same but have different sources: "refuse" raises,
            "together" puts them into one part, "ignore" does not look (and reads no image).
        near: see `find_duplicates`.

    Returns:
        name -> `Dataset`, in the order of `fractions`.

    Raises:
        DataError: duplicates were found, a part would be empty, or shares do not add up to 1.
    """
    fractions = dict(fractions or {"train": 0.6, "validation": 0.2, "test": 0.2})
    shares = np.array(list(fractions.values()), float)
    if len(shares) < 2 or (shares <= 0).any() or abs(shares.sum() - 1) > 1e-6:
        raise DataError(f"fractions {fractions}: expected two or more above 0 that add up to 1")
    part_of = _divide(dataset, shares, seed, stratify, duplicates, near)
    names = list(fractions)
    result = {n: dataset.subset(np.flatnonzero(part_of == k)) for k, n in enumerate(names)}
    empty = [n for n, d in result.items() if not len(d)]
    if empty:
        what = (
            f"{len(dataset)} samples of {len({s.source for s in dataset})} sources leave no image "
            f"for {', '.join(empty)}"
        )
        raise DataError(
            f"{what}; use fewer parts or other fractions",
            command=f"{what}; give another share by --validation, or more images",
        )
    return result


def folds(
    dataset: Dataset,
    k: int,
    *,
    seed: int = 0,
    stratify: Callable[[Sample], Hashable] = _default_label,
    duplicates: str = "refuse",
    near: bool = True,
) -> list[tuple[Dataset, Dataset]]:
    """Return k pairs (rest, held out): each source is held out once. Arguments as in `splits`."""
    if k < 2:
        raise DataError(f"k={k} folds, expected at least 2")
    part_of = _divide(dataset, np.full(k, 1 / k), seed, stratify, duplicates, near)
    if len(set(part_of.tolist())) < k:
        raise DataError(f"{len({s.source for s in dataset})} sources do not fill {k} folds")
    return [
        (dataset.subset(np.flatnonzero(part_of != f)), dataset.subset(np.flatnonzero(part_of == f)))
        for f in range(k)
    ]


def _divide(
    dataset: Sequence[Sample],
    shares: np.ndarray,
    seed: int,
    stratify: Callable[[Sample], Hashable],
    duplicates: str,
    near: bool,
) -> np.ndarray:
    if duplicates not in ("refuse", "together", "ignore"):
        raise DataError(f"duplicates={duplicates!r}, expected 'refuse', 'together' or 'ignore'")
    source = [s.source for s in dataset]
    if duplicates != "ignore":
        source = join_duplicates(dataset, refuse=duplicates == "refuse", near=near)
    return divide(source, [stratify(s) for s in dataset], shares, seed=seed)


def divide(
    source: Sequence[str],
    label: Sequence[Hashable],
    shares: np.ndarray,
    *,
    seed: int,
    warn: bool = True,
) -> np.ndarray:
    """Return the part (0, 1, ...) of each item: sources whole, labels spread by the shares.

    Args:
        source: items of one source go to one part.
        label: a tuple (a set of labels) is spread as well as may be; any other label reaches
            every part if it has as many sources as there are parts.
        shares: of the parts, adding up to 1.
        seed: with it, the result depends on the names of the sources, not on their order.
        warn: warn of labels with fewer sources than there are parts.
    """
    members: dict[str, list[int]] = defaultdict(list)
    for index, name in enumerate(source):
        members[name].append(index)
    strata: dict[str, list[str]] = defaultdict(list)
    single = set()
    for name, indices in members.items():
        key = Counter(repr(label[i]) for i in indices).most_common(1)[0][0]
        strata[key].append(name)
        # A set of labels is often unique; only a label proper must reach every part.
        if not isinstance(label[indices[0]], tuple):
            single.add(key)
    part_of = np.full(len(source), -1)
    rng = np.random.default_rng(seed)
    filled = np.zeros(len(shares))
    for key in sorted(strata, key=lambda s: (len(strata[s]), s)):
        names = sorted(strata[key])
        rng.shuffle(names)
        names.sort(key=lambda n: -len(members[n]))
        here = np.zeros(len(shares))
        for position, name in enumerate(names):
            weight = len(members[name])
            # How far each part is behind its share: on this label, and over all.
            behind = shares * (here.sum() + weight) - here
            behind = behind + shares * (filled.sum() + weight) - filled
            bare = here == 0
            if key in single and bare.sum() >= len(names) - position:
                behind[~bare] = -np.inf
            part = int(behind.argmax())
            part_of[members[name]] = part
            here[part] += weight
            filled[part] += weight
    rare = sorted(s for s in single if len(strata[s]) < len(shares))
    if rare and warn:
        warnings.warn(
            f"{len(rare)} labels come from fewer sources than there are parts, so they are "
            f"missing in some: {', '.join(rare[:5])}",
            AttnvizWarning,
            stacklevel=4,
        )
    return part_of


def join_duplicates(
    dataset: Sequence[Sample], *, refuse: bool = False, near: bool = True
) -> list[str]:
    """Return a source for each sample that is the same for images that show the same.

    Args:
        dataset: read once.
        refuse: raise `DataError` if images of different sources show the same.
        near: see `find_duplicates`.
    """
    source = [s.source for s in dataset]
    pairs = [p for p in find_duplicates(dataset, near=near) if source[p.first] != source[p.second]]
    if pairs and refuse:
        shown = "; ".join(
            f"{dataset[p.first].id} {'=' if p.exact else '~'} {dataset[p.second].id}"
            for p in pairs[:5]
        )
        raise DataError(
            f"{len(pairs)} images show the same as another image of another source "
            f"(= identical, ~ alike): {shown}; remove them, give them one source, or keep them in "
            f"one part with duplicates='together'"
        )
    joined = {name: name for name in source}

    def root(name: str) -> str:
        while joined[name] != name:
            name = joined[name]
        return name

    for pair in pairs:
        joined[root(source[pair.second])] = root(source[pair.first])
    return [root(name) for name in source]
