"""Real cut-outs on real backgrounds: the protocol of context confusion on photographs.

In training every boat comes on water and everything else on land (`co_occurrence`). In validation
and test all four groups occur alike. Cut-outs and backgrounds are divided by the photo they come
from, so no photo is in two parts in any role. Every image is pasted in the same way, brought to the
same sharpness, on a background that was painted over somewhere: the paste tells nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from attnviz.data.boatwater.arrays import GROUPS, GroupedImages
from attnviz.data.dataset import Dataset
from attnviz.data.splitting import divide
from attnviz.errors import DataError
from study.material import Background, CutOut, Material, harvest
from study.pasting import paste, patch_of
from study.protocol import Protocol


@dataclass(frozen=True, eq=False)
class Composites:
    """The images of one fold.

    Attributes:
        train: co-occurring as the protocol says.
        validation: four groups alike; every choice is made here.
        test: four groups alike; looked at once.
        controls: test backgrounds with a patch of another such background pasted in an object's
            shape: all the artefacts of pasting and no object. Label "other"; the region OBJECT
            is the patch.
        report: counts, areas and sources of each part, ready for JSON.
    """

    train: GroupedImages
    validation: GroupedImages
    test: GroupedImages
    controls: GroupedImages | None
    report: Mapping[str, object]


def composite(
    dataset: Dataset | Material,
    *,
    object: str = "boat",
    context: str = "water",
    others: Sequence[str] | None = None,
    land: Sequence[str] | None = None,
    fold: int = 0,
    folds: int = 2,
    seed: int = 0,
    protocol: Protocol | None = None,
    duplicates: str = "together",
) -> Composites:
    """Compose one fold of the benchmark from photos with masks.

    Args:
        dataset: photos with masks of the object, the context, other things and ground; or what
            `harvest` made of them (quicker when several folds or seeds are made).
        object, context, others, land: see `harvest`.
        fold: which share of the photos is for the test, 0 to folds - 1.
        folds: number of folds. The division into folds depends on nothing but the dataset; of
            what is not for the test, three tenths are for validation.
        seed: pairs, places and sizes.
        protocol: the numbers; None takes the default.
        duplicates: photos that show the same: kept in one fold ("together"), or an error
            ("refuse"). Looked for only in a `Dataset`.

    Returns:
        `Composites`.

    Raises:
        DataError: too few photos of a kind for so many folds; the message has the counts.
    """
    protocol = protocol or Protocol()
    if not 0 <= fold < folds or folds < 2:
        raise DataError(f"fold {fold} of {folds}: expected 2 or more folds, counted from 0")
    if isinstance(dataset, Material):
        material = dataset
    else:
        dataset = _one_source_for_duplicates(dataset, duplicates)
        material = harvest(dataset, object=object, context=context, others=others, land=land)
    parts = divide_material(material, fold=fold, folds=folds)
    images = {
        "train": _compose(
            parts["train"], _deal(protocol.train, protocol.co_occurrence), protocol, (seed, fold, 0)
        ),
        "validation": _compose(
            parts["validation"], _even(protocol.validation), protocol, (seed, fold, 1)
        ),
        "test": _compose(parts["test"], _even(protocol.test), protocol, (seed, fold, 2)),
    }
    controls = None
    if protocol.controls:
        controls = _controls(parts["test"], protocol, (seed, fold, 3))
    report = {
        "object": object,
        "context": context,
        "fold": fold,
        "folds": folds,
        "seed": seed,
        "protocol": asdict(protocol),
        "material": {n: m.counts() for n, m in parts.items()},
        "left_out": material.left_out,
        "groups": {n: g.group_counts() for n, g in images.items()},
        "object_area": {n: round(g.object_area(), 4) for n, g in images.items()},
        "object_area_by_group": {n: _area_by_group(g) for n, g in images.items()},
        "painted_over": {
            name: round(float(np.mean([b.painted.mean() for b in part])), 4)
            for name, part in (("water", material.water), ("land", material.land))
        },
    }
    return Composites(images["train"], images["validation"], images["test"], controls, report)


def divide_material(material: Material, *, fold: int, folds: int) -> dict[str, Material]:
    """Return train, validation and test parts with no photo in common, in whatever role.

    Raises:
        DataError: a part lacks boats, others, water or land.
    """
    roles: dict[str, list[str]] = {}
    for role, part in (
        ("object", material.objects),
        ("water", material.water),
        ("other", material.others),
        ("land", material.land),
    ):
        for piece in part:
            roles.setdefault(piece.source, []).append(role)
    order = ("object", "water", "other", "land")
    names = sorted(roles)
    kinds = ["+".join(sorted(set(roles[n]), key=order.index)) for n in names]
    of_fold = divide(names, kinds, np.full(folds, 1 / folds), seed=0, warn=False)
    rest = [i for i in range(len(names)) if of_fold[i] != fold]
    inner = divide(
        [names[i] for i in rest],
        [kinds[i] for i in rest],
        np.array([0.7, 0.3]),
        seed=1,
        warn=False,
    )
    sources = {
        "train": [names[i] for i, p in zip(rest, inner, strict=True) if p == 0],
        "validation": [names[i] for i, p in zip(rest, inner, strict=True) if p == 1],
        "test": [n for n, f in zip(names, of_fold, strict=True) if f == fold],
    }
    parts = {name: material.of_sources(chosen) for name, chosen in sources.items()}
    for name, part in parts.items():
        if min(part.counts().values()) == 0:
            raise DataError(
                f"fold {fold} of {folds}: the {name} part has {part.counts()}, of "
                f"{material.counts()} in all; use fewer folds or more photos"
            )
    return parts


def _one_source_for_duplicates(dataset: Dataset, duplicates: str) -> Dataset:
    from dataclasses import replace

    from attnviz.data.splitting import join_duplicates

    joined = join_duplicates(dataset, refuse=duplicates == "refuse")
    samples = tuple(replace(s, source=name) for s, name in zip(dataset, joined, strict=True))
    return replace(dataset, samples=samples)


def _deal(n: int, co_occurrence: float) -> list[int]:
    boats = n // 2
    boat_water, other_land = round(boats * co_occurrence), round((n - boats) * co_occurrence)
    counts = (other_land, n - boats - other_land, boats - boat_water, boat_water)
    return np.repeat(np.arange(4), counts).tolist()


def _even(n: int) -> list[int]:
    return np.repeat(np.arange(4), n // 4).tolist()


class _Turns:
    """Deals the pieces in random order, each as often as the others."""

    def __init__(self, count: int, rng: np.random.Generator) -> None:
        self.count, self.rng, self.left = count, rng, []

    def __call__(self) -> int:
        if not self.left:
            self.left = self.rng.permutation(self.count).tolist()
        return self.left.pop()


def _compose(
    material: Material, groups: Sequence[int], protocol: Protocol, seed: Sequence[int]
) -> GroupedImages:
    rng = np.random.default_rng(seed)
    cut_outs = {
        g: _Turns(len(material.objects if g >= 2 else material.others), rng) for g in range(4)
    }
    places = {g: _Turns(len(material.water if g % 2 else material.land), rng) for g in range(4)}
    pictures, pieces, grounds = [], [], []
    for group in groups:
        piece = (material.objects if group >= 2 else material.others)[cut_outs[group]()]
        ground = (material.water if group % 2 else material.land)[places[group]()]
        if piece.source == ground.source and len(material.land) > 1 and len(material.water) > 1:
            ground = (material.water if group % 2 else material.land)[places[group]()]
        pictures.append(paste(piece, ground, protocol, rng))
        pieces.append(piece)
        grounds.append(ground)
    return _gather(pictures, groups, pieces, grounds, protocol, seed)


def _gather(
    pictures: Sequence[tuple[np.ndarray, np.ndarray]],
    groups: Sequence[int],
    pieces: Sequence[CutOut],
    grounds: Sequence[Background],
    protocol: Protocol,
    seed: Sequence[int],
) -> GroupedImages:
    indices = np.asarray(groups, np.int64)
    return GroupedImages(
        images=np.stack([p[0] for p in pictures]),
        region=np.stack([p[1] for p in pictures]),
        label=indices // 2,
        context=indices % 2,
        source=tuple(p.source for p in pieces),
        background=tuple(g.source for g in grounds),
        kind=tuple(p.kind for p in pieces),
        meta={
            "generator": "study.compositing",
            "seed": list(seed),
            "protocol": asdict(protocol),
        },
    )


def _controls(material: Material, protocol: Protocol, seed: Sequence[int]) -> GroupedImages:
    """Paste patches of backgrounds, in the shape of cut-outs, on backgrounds of the same kind."""
    rng = np.random.default_rng(seed)
    pictures, pieces, grounds = [], [], []
    shapes = (*material.objects, *material.others)
    groups = [k % 2 for k in range(protocol.controls)]
    for context in groups:
        places = material.water if context else material.land
        ground, other = (places[int(i)] for i in rng.integers(len(places), size=2))
        shape = shapes[int(rng.integers(len(shapes)))]
        patch = patch_of(other, shape, rng)
        pictures.append(paste(patch, ground, protocol, rng))
        pieces.append(patch)
        grounds.append(ground)
    return _gather(pictures, groups, pieces, grounds, protocol, seed)


def _area_by_group(data: GroupedImages) -> dict[str, float]:
    area = data.object_mask.mean((1, 2))
    return {
        name: round(float(area[data.group == g].mean()), 4)
        for g, name in enumerate(GROUPS)
        if (data.group == g).any()
    }
