from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from study.compositing import Composites, composite
from study.material import extend_colours, harvest
from study.protocol import Protocol
from study.whole_photos import whole_photos

from attnviz.data import Dataset, Sample, open_dataset
from attnviz.data import boatwater as bw
from attnviz.data.masks import ArrayMask
from attnviz.errors import DataError

WATER, GRASS, BOAT, COW = (30, 70, 130), (70, 120, 50), (200, 40, 40), (120, 80, 40)


def photo(kind: str, index: int) -> Sample:
    """A synthetic "photo" of 100 x 140 with masks: flat ground with a little noise, one thing."""
    rng = np.random.default_rng([index, len(kind)])
    ground, name = (WATER, "water") if "water" in kind else (GRASS, "grass")
    pixels = np.clip(np.array(ground) + rng.normal(0, 6, (100, 140, 3)), 0, 255).astype(np.uint8)
    # swell, or tufts, that differ from photo to photo
    relief = cv2.resize(rng.normal(0, 14, (6, 8)), (140, 100), interpolation=cv2.INTER_CUBIC)
    pixels = np.clip(pixels + relief[..., None], 0, 255).astype(np.uint8)
    pixels[:20] = 180 + rng.integers(0, 20, (20, 140, 3))
    masks = {name: np.zeros((100, 140), bool)}
    masks[name][20:] = True
    thing = "boat" if "boat" in kind else "cow" if "cow" in kind else None
    if thing:
        centre = int(rng.integers(50, 90)), int(rng.integers(45, 75))
        axes = (26, 11) if thing == "boat" else (18, 14)
        here = np.zeros((100, 140), np.uint8)
        cv2.ellipse(here, centre, axes, float(rng.integers(-9, 9)), 0, 360, 1, -1)
        masks[thing] = here.astype(bool)
        masks[name] &= ~masks[thing]
        colour = np.array(BOAT if thing == "boat" else COW) + rng.normal(0, 10, 3)
        pixels[masks[thing]] = np.clip(colour, 0, 255).astype(np.uint8)
    return Sample(
        id=f"{kind}-{index}",
        image=pixels,
        labels=tuple(masks),
        masks={n: ArrayMask(m) for n, m in masks.items()},
    )


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    counts = {"boat water": 12, "water": 10, "cow grass": 14, "grass": 12}
    made = [photo(kind, k) for kind, n in counts.items() for k in range(n)]
    return Dataset(tuple(made), ("boat", "cow", "water", "grass"))


PROTOCOL = Protocol(size=64, train=60, validation=40, test=80, controls=20)


@pytest.fixture(scope="module")
def folds(dataset: Dataset) -> list[Composites]:
    material = harvest(dataset)
    return [composite(material, fold=f, protocol=PROTOCOL) for f in range(2)]


def parts(fold: Composites) -> dict[str, bw.GroupedImages]:
    return {"train": fold.train, "validation": fold.validation, "test": fold.test}


def test_groups_are_as_the_protocol_says(folds: list[Composites]) -> None:
    for fold in folds:
        assert list(fold.train.group_counts().values()) == [30, 0, 0, 30]
        assert list(fold.validation.group_counts().values()) == [10] * 4
        assert list(fold.test.group_counts().values()) == [20] * 4
        assert list(fold.controls.group_counts().values()) == [10, 10, 0, 0]


def test_no_photo_is_in_two_parts_in_any_role(folds: list[Composites]) -> None:
    for fold in folds:
        used = {n: {*p.source, *p.background} for n, p in parts(fold).items()}
        assert not used["train"] & used["validation"]
        assert not (used["train"] | used["validation"]) & used["test"]
        assert not (used["train"] | used["validation"]) & {
            *fold.controls.source,
            *fold.controls.background,
        }
    first, second = ({*f.test.source, *f.test.background} for f in folds)
    assert not first & second  # each photo is tested in one fold


def test_every_cut_out_and_background_comes_equally_often(folds: list[Composites]) -> None:
    test = folds[0].test
    for g in range(4):
        for names in (test.source, test.background):
            _, counts = np.unique(np.array(names)[test.group == g], return_counts=True)
            assert counts.max() - counts.min() <= 1


def test_masks_are_where_the_objects_colour_is(folds: list[Composites]) -> None:
    test = folds[0].test
    for i in np.flatnonzero(test.label == 1):
        image, region = test.images[i].astype(int), test.region[i]
        red = image[..., 0] - image[..., 1] > 80  # only boats are red, the ground is blue or green
        core = cv2.erode((region == 3).astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
        assert red[core].mean() > 0.99
        assert not red[(region == 1) | (region == 2)].any()
    for i in np.flatnonzero(test.context == 1):
        seen = test.images[i].astype(int)[test.water_mask[i]]
        assert np.median(seen[:, 2] - seen[:, 0]) == pytest.approx(100, abs=12)


def test_area_is_within_the_stated_limits_and_alike(folds: list[Composites]) -> None:
    for fold in folds:
        area = fold.test.object_mask.mean((1, 2))
        assert area.min() > 0.04
        assert area.max() < 0.22
        by_group = fold.report["object_area_by_group"]["test"]
        assert max(by_group.values()) - min(by_group.values()) < 0.05
        assert fold.report["object_area"]["test"] == pytest.approx(area.mean(), abs=1e-4)


def test_pasting_changes_nothing_outside_the_paste(dataset: Dataset) -> None:
    from study import pasting as c

    material = harvest(dataset)
    piece, ground = material.objects[0], material.water[0]
    image, region = c.paste(piece, ground, PROTOCOL, np.random.default_rng(3))
    plain, before, _ = c.view(ground, PROTOCOL.size, np.random.default_rng(3))
    changed = (image != plain).any(-1)
    kept = (region == before) & (region != 3)
    assert changed[region == 3].mean() > 0.99
    # beyond the soft edge, which belongs to no region, everything is as it was
    assert not changed[kept & (region != 0)].any()


def test_backgrounds_have_no_object_left_and_all_were_painted_over(dataset: Dataset) -> None:
    material = harvest(dataset)
    assert material.counts() == {
        "object cut-outs": 12,
        "other cut-outs": 14,
        "water backgrounds": 10,
        "land backgrounds": 26,
    }
    assert material.left_out == {"background: boat in it": 12}
    for ground in (*material.water, *material.land):
        assert 0.015 < ground.painted.mean() < 0.3
        brown = np.abs(ground.pixels.astype(int) - COW).sum(-1) < 45
        assert brown.mean() < 0.01  # cows are gone
    share = [np.mean([b.painted.mean() for b in part]) for part in (material.water, material.land)]
    assert abs(share[0] - share[1]) < 0.08
    with_boats = harvest(dataset, object_photos=True)
    assert len(with_boats.water) == 22
    for ground in with_boats.water:
        assert (ground.pixels[..., 0].astype(int) - ground.pixels[..., 1] > 80).mean() < 0.005


def test_the_same_seed_repeats_and_another_does_not(
    dataset: Dataset, folds: list[Composites]
) -> None:
    material = harvest(dataset)
    again = composite(material, fold=0, protocol=PROTOCOL)
    np.testing.assert_array_equal(again.test.images, folds[0].test.images)
    other = composite(material, fold=0, seed=1, protocol=PROTOCOL)
    assert (other.test.images != folds[0].test.images).any()
    assert set(other.test.source) == set(folds[0].test.source)  # the division stays


def test_photos_that_show_the_same_stay_in_one_part(dataset: Dataset) -> None:
    twins = [
        Sample(f"twin-{k}", dataset[k].image, labels=dataset[k].labels, masks=dataset[k].masks)
        for k in range(6)
    ]
    both = Dataset((*dataset.samples, *twins), dataset.classes)
    with pytest.raises(DataError, match="6 images show the same"):
        composite(both, protocol=PROTOCOL, duplicates="refuse")
    fold = composite(both, protocol=PROTOCOL)
    assert not any(s.startswith("twin") for s in fold.test.source + fold.train.source)


def test_colours_beyond_a_cut_out_are_its_own() -> None:
    pixels = np.zeros((20, 20, 3), np.uint8)
    pixels[..., 2] = 255  # a blue ground
    mask = np.zeros((20, 20), bool)
    mask[8:12, 8:12] = True
    pixels[mask] = (250, 10, 0)
    grown = extend_colours(pixels, mask)
    np.testing.assert_array_equal(grown[mask], pixels[mask])
    np.testing.assert_array_equal(grown, np.broadcast_to((250, 10, 0), grown.shape))


def test_whole_photos_hold_water_without_boats_out(dataset: Dataset) -> None:
    seen: list[set[str]] = []
    for fold in range(2):
        photos = whole_photos(dataset, fold=fold, size=64)
        assert photos.train.group_counts()["other/water"] == 0
        assert photos.train.co_occurrence() == 1
        used = [set(p.source) for p in (photos.train, photos.validation, photos.test)]
        assert len(set.union(*used)) == sum(map(len, used)) == 48
        seen.append(used[2])
        boats = photos.test.label == 1
        area = photos.test.object_mask.mean((1, 2))
        assert area[boats].min() > 0.02
        assert area[~boats].max() == 0
    assert not seen[0] & seen[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"object": "water"}, "must be two classes"),
        ({"object": "ship"}, "class 'ship' is not in the dataset"),
        ({"fold": 2}, "fold 2 of 2"),
        ({"folds": 40}, "use fewer folds or more photos"),
    ],
)
def test_faults(dataset: Dataset, arguments: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        composite(dataset, protocol=PROTOCOL, **arguments)


def test_a_dataset_without_boats_says_what_was_left_out(dataset: Dataset) -> None:
    few = dataset.filter(lambda s: "boat" not in s.labels)
    with pytest.raises(DataError, match="no cut-out of 'boat' in 36 photos"):
        composite(few)
    with pytest.raises(DataError, match=r"0 photos of boat with water"):
        whole_photos(few)


@pytest.mark.slow
def test_the_protocol_on_real_photos(shared_data: Path) -> None:
    dataset = open_dataset(shared_data / "scenes")
    fold = composite(dataset, protocol=Protocol(train=40, validation=20, test=40, controls=10))
    counts = fold.report["material"]
    assert sum(c["object cut-outs"] for c in counts.values()) >= 20
    assert sum(c["water backgrounds"] for c in counts.values()) >= 12
    used = [{*p.source, *p.background} for p in parts(fold).values()]
    assert len(set.union(*used)) == sum(map(len, used))
    assert 0.09 < fold.test.object_area() < 0.16
