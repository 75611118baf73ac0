from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from attnviz.data import (
    Dataset,
    Sample,
    find_duplicates,
    folds,
    open_dataset,
    refuse_leaks,
    splits,
)
from attnviz.errors import AttnvizWarning, DataError


def scene(seed: int, size: int = 48) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return cv2.resize(rng.integers(0, 256, (6, 6, 3), np.uint8), (size, size))


def samples(
    n: int, *, per_source: int = 1, label=lambda k: "boat" if k % 3 else "other"
) -> Dataset:
    made = [
        Sample(f"{k:04d}", scene(k), label=label(k), source=f"s{k // per_source}") for k in range(n)
    ]
    return Dataset(tuple(made), ("boat", "other"))


def test_splits_are_disjoint_complete_and_stratified() -> None:
    dataset = samples(90)
    parts = splits(dataset, seed=3)
    assert {n: len(d) for n, d in parts.items()} == {"train": 54, "validation": 18, "test": 18}
    ids = [s.id for d in parts.values() for s in d]
    assert sorted(ids) == [s.id for s in dataset]
    for part, share in zip(parts.values(), (0.6, 0.2, 0.2), strict=True):
        counts = part.counts()
        assert abs(counts["other"] - 30 * share) <= 1


def test_sources_are_never_divided() -> None:
    dataset = samples(120, per_source=4, label=lambda k: "boat" if (k // 4) % 2 else "other")
    parts = splits(dataset, duplicates="ignore")
    owners: dict[str, set[str]] = {}
    for name, part in parts.items():
        for s in part:
            owners.setdefault(s.source, set()).add(name)
    assert all(len(o) == 1 for o in owners.values())
    refuse_leaks(parts)


def test_splits_do_not_depend_on_the_order_and_do_on_the_seed() -> None:
    dataset = samples(60)
    turned = dataset.subset(range(59, -1, -1))
    one, two = (splits(d, duplicates="ignore") for d in (dataset, turned))
    other = splits(dataset, seed=1, duplicates="ignore")
    assert {s.id for s in one["test"]} == {s.id for s in two["test"]}
    assert {s.id for s in one["test"]} != {s.id for s in other["test"]}


def test_a_rare_label_reaches_every_part_if_it_can() -> None:
    dataset = samples(63, label=lambda k: "rare" if k < 3 else "boat")
    parts = splits(dataset, duplicates="ignore")
    assert all(any(s.label == "rare" for s in p) for p in parts.values())
    dataset = samples(62, label=lambda k: "rare" if k < 2 else "boat")
    with pytest.warns(AttnvizWarning, match="fewer sources than there are parts.*rare"):
        splits(dataset, duplicates="ignore")


def test_sets_of_labels_that_are_all_different_still_fill_the_shares() -> None:
    made = [Sample(f"{k}", scene(k), labels=(f"c{k}", f"d{k}")) for k in range(100)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        parts = splits(Dataset(tuple(made), ()), duplicates="ignore")
    assert [len(p) for p in parts.values()] == [60, 20, 20]


def test_folds_hold_every_source_out_once() -> None:
    dataset = samples(50, per_source=2)
    held = Counter(s.id for _, out in folds(dataset, 5, duplicates="ignore") for s in out)
    assert held == Counter(s.id for s in dataset)
    for rest, out in folds(dataset, 5, duplicates="ignore"):
        assert not {s.source for s in rest} & {s.source for s in out}
        assert len(rest) + len(out) == 50


def test_identical_pixels_under_other_names_are_refused_or_kept_together() -> None:
    dataset = samples(30)
    twin = Sample("copy", scene(4), label="boat")
    dataset = Dataset((*dataset.samples, twin), dataset.classes)
    with pytest.raises(DataError, match="1 images show the same.*0004 = copy"):
        splits(dataset)
    parts = splits(dataset, duplicates="together")
    (owner,) = [n for n, p in parts.items() if "copy" in [s.id for s in p]]
    assert "0004" in [s.id for s in parts[owner]]


def test_altered_copies_are_found_and_others_are_not() -> None:
    original = scene(7, 96)
    encoded = cv2.imencode(".jpg", original, [cv2.IMWRITE_JPEG_QUALITY, 60])[1]
    altered = {
        "resized": cv2.resize(original, (60, 60), interpolation=cv2.INTER_AREA),
        "recompressed": cv2.imdecode(encoded, cv2.IMREAD_COLOR),
        "darker": (original * 0.8).astype(np.uint8),
    }
    for name, copy in altered.items():
        pairs = find_duplicates([Sample("a", original), Sample(name, copy)])
        assert [(p.first, p.second, p.exact) for p in pairs] == [(0, 1, False)], name
        assert find_duplicates([Sample("a", original), Sample(name, copy)], near=False) == []
    assert find_duplicates(Sample(str(k), scene(k)) for k in range(200)) == []


def test_two_plain_skies_of_other_texture_are_not_duplicates() -> None:
    rng = np.random.default_rng(0)
    base = np.linspace(120, 220, 64)[:, None, None]
    skies = []
    for _ in range(6):
        clouds = cv2.resize(rng.normal(0, 25, (10, 10)), (64, 64), interpolation=cv2.INTER_CUBIC)
        skies.append(np.clip(base + clouds[..., None] + np.zeros(3), 0, 255).astype(np.uint8))
    assert find_duplicates(Sample(str(k), s) for k, s in enumerate(skies)) == []


def test_a_small_boat_on_the_same_sea_is_no_duplicate_of_the_sea() -> None:
    sea = scene(3, 96)
    boat = sea.copy()
    boat[50:62, 40:64] = 255 - boat[50:62, 40:64]
    assert find_duplicates([Sample("sea", sea), Sample("boat", boat)]) == []


def test_the_same_relief_in_another_colour_is_no_duplicate() -> None:
    relief = scene(3).astype(int).mean(-1, keepdims=True) / 4
    green, blue = (
        np.clip(np.array(c) + relief, 0, 255).astype(np.uint8)
        for c in ((70, 120, 50), (30, 70, 130))
    )
    assert find_duplicates([Sample("a", green), Sample("b", blue)]) == []


def test_leaks_between_parts_are_refused_by_source_and_by_content() -> None:
    one = [Sample("a", scene(1), source="film"), Sample("b", scene(2))]
    with pytest.raises(DataError, match="leak: 1 sources are both in 'train' and in 'test'.*film"):
        refuse_leaks({"train": one, "test": [Sample("c", scene(3), source="film")]})
    with pytest.raises(DataError, match="leak: 1 images of one part.*train/b = test/z"):
        refuse_leaks({"train": one, "test": [Sample("z", scene(2))]})
    refuse_leaks({"train": one, "test": [Sample("z", scene(2))]}, pixels=False)


@pytest.mark.parametrize("fractions", [{"a": 1.0}, {"a": 0.5, "b": 0.6}, {"a": 1.2, "b": -0.2}])
def test_fractions_must_be_shares(fractions: dict[str, float]) -> None:
    with pytest.raises(DataError, match="add up to 1"):
        splits(samples(9), fractions)


def test_too_few_sources_leave_a_part_empty() -> None:
    with (
        pytest.raises(DataError, match=r"6 samples of 1 sources leave no image"),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        splits(samples(6, per_source=6), duplicates="ignore")


def test_the_photo_that_is_twice_in_the_shared_scenes_is_found(shared_data: Path) -> None:
    dataset = open_dataset(shared_data / "scenes")
    pairs = [(dataset[p.first].id, dataset[p.second].id, p.exact) for p in find_duplicates(dataset)]
    assert pairs == [("images/1_26_s.jpg", "images/9_10_s.jpg", True)]
