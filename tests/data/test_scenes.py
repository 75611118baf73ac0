from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from attnviz.data import boatwater as bw
from attnviz.data import open_dataset, refuse_leaks
from attnviz.data.boatwater.scenes import MARK_MAX_ELSEWHERE, WATER_MAX_ELSEWHERE, WATER_MIN
from attnviz.errors import DataError, OutputExists


@pytest.fixture(scope="module")
def scenes() -> bw.GroupedImages:
    return bw.generate(groups=bw.balanced(40), size=64, seed=5, marked=True, plain=True)


@pytest.mark.parametrize("size", [32, 57, 64, 256])
def test_the_mask_is_what_drawing_the_object_changes(size: int) -> None:
    data = bw.generate(groups=bw.balanced(8), size=size, seed=size, plain=True)
    changed = (data.images != data.plain).any(-1)
    mask = data.object_mask
    assert not (changed & ~mask).any()
    # a pixel of the object may by chance have the very colour that was there
    assert (mask & ~changed).sum() / mask.sum() < 0.005
    assert mask.mean((1, 2)).min() > 0.02
    assert mask.mean((1, 2)).max() < 0.25


def test_colour_tells_water_and_the_mark_without_exception(scenes: bw.GroupedImages) -> None:
    red, green, blue = np.moveaxis(scenes.images.astype(int), -1, 0)
    water = scenes.water_mask
    assert (blue - red)[water].min() >= WATER_MIN
    assert (blue - red)[~water].max() <= WATER_MAX_ELSEWHERE
    boat = scenes.object_mask & (scenes.label == 1)[:, None, None]
    assert (red - green)[~boat].max() <= MARK_MAX_ELSEWHERE
    marked = ((red - green > MARK_MAX_ELSEWHERE + 8) & boat).sum((1, 2))
    assert marked[scenes.label == 1].min() > 20
    plain_red, _, plain_blue = np.moveaxis(scenes.plain.astype(int), -1, 0)
    assert (plain_blue - plain_red)[water].min() >= WATER_MIN


def test_context_is_where_it_should_be(scenes: bw.GroupedImages) -> None:
    on_water = scenes.context == 1
    assert scenes.water_mask[on_water].mean((1, 2)).min() > 0.2
    assert not scenes.water_mask[~on_water].any()
    assert scenes.land_mask[~on_water].mean((1, 2)).min() > 0.2
    np.testing.assert_array_equal(scenes.context_mask[on_water], scenes.water_mask[on_water])
    np.testing.assert_array_equal(scenes.context_mask[~on_water], scenes.land_mask[~on_water])


def test_the_same_seed_gives_the_same_scenes_whatever_comes_with_them() -> None:
    one = bw.generate(groups=[3, 0, 2], size=48, seed=9)
    two = bw.generate(groups=[3, 0, 2, 1, 1], size=48, seed=9)
    np.testing.assert_array_equal(one.images, two.images[:3])
    assert (bw.generate(groups=[3], size=48, seed=10).images != one.images[:1]).any()


def test_the_global_random_state_is_left_alone() -> None:
    np.random.seed(0)
    before, torch_before = np.random.get_state()[1].copy(), torch.get_rng_state()
    bw.generate(8, size=32)
    np.testing.assert_array_equal(np.random.get_state()[1], before)
    assert torch.equal(torch.get_rng_state(), torch_before)


def test_changing_the_group_changes_that_alone() -> None:
    for seed in range(12):
        on_water, on_land = (bw.render(g, seed, size=64) for g in ("boat/water", "boat/land"))
        other = bw.render("other/water", seed, size=64)
        assert on_water.kind == on_land.kind
        np.testing.assert_array_equal(on_water.region == 3, on_land.region == 3)
        # the same place without its object, boat or not
        np.testing.assert_array_equal(on_water.plain, other.plain)
        inside = on_water.region == 3
        apart = np.abs(on_water.image.astype(int) - on_land.image)[inside]
        assert np.median(apart) <= 1  # but for half-transparent edges, the object is the same


def test_co_occurrence_is_dealt_exactly() -> None:
    data = bw.generate(40, size=32, co_occurrence=1.0)
    assert data.group_counts() == {
        "other/land": 20,
        "other/water": 0,
        "boat/land": 0,
        "boat/water": 20,
    }
    assert data.co_occurrence() == 1.0
    data = bw.generate(40, size=32, co_occurrence=0.5, boats=0.25)
    assert list(data.group_counts().values()) == [15, 15, 5, 5]
    assert (data.label == data.group // 2).all()


def test_objects_of_both_labels_have_like_sizes_and_places() -> None:
    data = bw.generate(groups=bw.balanced(150), size=32, seed=1)
    area = data.object_mask.mean((1, 2))
    centre = (data.object_mask * np.arange(32)[:, None]).sum((1, 2)) / data.object_mask.sum((1, 2))
    for value, spread in ((area, 0.02), (centre, 1.5)):
        boats, others = value[data.label == 1], value[data.label == 0]
        assert abs(boats.mean() - others.mean()) < spread
    brightness = (data.images.mean(-1) * data.object_mask).sum((1, 2)) / data.object_mask.sum(
        (1, 2)
    )
    assert abs(brightness[data.label == 1].mean() - brightness[data.label == 0].mean()) < 15


def test_every_kind_is_drawn_and_unlike_the_others() -> None:
    from attnviz.data.boatwater._boats import BOATS
    from attnviz.data.boatwater._others import OTHERS

    silhouettes = []
    for group, kinds in (("boat/land", BOATS), ("other/land", OTHERS)):
        for kind in kinds:
            scene = bw.render(group, 4, size=64, kind=kind)
            assert scene.kind == kind
            silhouettes.append((scene.region == 3).tobytes())
    assert len(set(silhouettes)) == 15
    with pytest.raises(DataError, match="kind 'car' is no boat"):
        bw.render("boat/land", 4, kind="car")


def test_scenes_are_written_and_read_back(tmp_path) -> None:
    data = bw.generate(groups=bw.balanced(2), size=32, seed=2)
    data.write(tmp_path)
    with pytest.raises(OutputExists, match="force=True"):
        data.write(tmp_path)
    data.write(tmp_path, force=True)
    read = open_dataset(tmp_path)
    assert json.loads((tmp_path / "index.json").read_text())["made_by"]["seed"] == 2
    for i, (sample, in_memory) in enumerate(zip(read, data.dataset(), strict=True)):
        np.testing.assert_array_equal(sample.read(), data.images[i])
        assert sample.group == in_memory.group == bw.GROUPS[i % 4]
        assert sample.label == in_memory.label
        for source in (sample, in_memory):
            np.testing.assert_array_equal(source.mask(sample.label), data.object_mask[i])
            np.testing.assert_array_equal(source.mask("water"), data.water_mask[i])
    assert set(in_memory.labels) == {"boat", "water"}
    with pytest.raises(DataError, match="leak"):
        refuse_leaks({"train": read, "test": data.subset([3]).dataset()})


def test_subset_tensors_and_sheet() -> None:
    data = bw.generate(groups=bw.balanced(2), size=32)
    some = data.subset(data.label == 1)
    assert len(some) == 4
    assert some.source == tuple(data.source[i] for i in (2, 3, 6, 7))
    images, labels = some.tensors()
    np.testing.assert_array_equal(
        (images * 255).round().numpy().astype(np.uint8).transpose(0, 2, 3, 1), some.images
    )
    assert labels.tolist() == [1, 1, 1, 1]
    sheet = bw.contact_sheet(data.images, columns=3, gap=1)
    assert sheet.shape == (3 * 33 + 1, 3 * 33 + 1, 3)
    np.testing.assert_array_equal(sheet[34:66, 1:33], data.images[3])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0}, "expected 1 or more"),
        ({"n": 4, "size": 16}, "32 to 256"),
        ({"n": 4, "co_occurrence": 1.5}, "a share from 0 to 1"),
        ({"groups": ["boat/watr"]}, "did you mean 'boat/water'"),
        ({"groups": [4]}, "expected 0 to 3"),
        ({"groups": []}, "groups is empty"),
        ({"n": 3, "groups": [1]}, "give one of the two"),
    ],
)
def test_faults(arguments: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        bw.generate(**arguments)


def test_arrays_of_unlike_lengths_are_refused() -> None:
    data = bw.generate(4, size=32)
    with pytest.raises(DataError, match=r"label has shape \(3,\), expected \(4,\)"):
        bw.GroupedImages(
            data.images,
            data.region,
            data.label[:3],
            data.context,
            data.source,
            data.background,
            data.kind,
        )
