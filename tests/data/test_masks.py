from __future__ import annotations

import json
import time

import numpy as np
import pytest
from PIL import Image

from attnviz.data import MaskFile, mask_box, open_dataset, polygon_mask, rle_decode
from attnviz.data.masks import BoxMask, RunLengthMask, UnionMask
from attnviz.errors import DataError


def test_polygon_square_covers_its_half_open_pixels() -> None:
    mask = polygon_mask([2, 1, 5, 1, 5, 4, 2, 4], (6, 8))
    expected = np.zeros((6, 8), bool)
    expected[1:4, 2:5] = True
    np.testing.assert_array_equal(mask, expected)


def test_polygons_that_share_an_edge_neither_overlap_nor_leave_a_gap() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        x, y = rng.uniform(0, 12, 2)
        corners = [(0, 0), (12, 0), (12, 12), (0, 12)]
        parts = [
            polygon_mask([*corners[k], *corners[(k + 1) % 4], x, y], (12, 12)) for k in range(4)
        ]
        np.testing.assert_array_equal(np.sum(parts, 0), np.ones((12, 12)))


def test_polygon_agrees_with_matplotlib_away_from_its_edge() -> None:
    from matplotlib.path import Path

    rng = np.random.default_rng(1)
    centres = np.stack(np.meshgrid(np.arange(20) + 0.5, np.arange(15) + 0.5), -1).reshape(-1, 2)
    for _ in range(30):
        # star-shaped, so that matplotlib's winding rule and the even-odd rule agree
        angle = np.sort(rng.uniform(0, 2 * np.pi, 7))
        points = (10, 7) + rng.uniform(1, 9, (7, 1)) * np.stack([np.cos(angle), np.sin(angle)], 1)
        inside = Path(points).contains_points(centres).reshape(15, 20)
        np.testing.assert_array_equal(polygon_mask(points.ravel().tolist(), (15, 20)), inside)


def test_self_crossing_polygon_is_hollow_by_the_even_odd_rule() -> None:
    twice = [0, 0, 10, 0, 10, 10, 0, 10, 0, 0, 2, 2, 8, 2, 8, 8, 2, 8, 2, 2]
    mask = polygon_mask(twice, (10, 10))
    assert mask.sum() == 100 - 36
    assert not mask[5, 5]


@pytest.mark.parametrize("points", [[0, 0, 1, 1], [0, 0, 1, 1, 2], [0, 0, 1, np.nan, 2, 2]])
def test_polygon_refuses_what_is_none(points: list[float]) -> None:
    with pytest.raises(DataError, match="at least 3 points"):
        polygon_mask(points, (4, 4))


def test_run_length_by_hand() -> None:
    # columns first: 2 off, 3 on, 1 off of a 3 x 2 image
    expected = np.array([[0, 1], [0, 1], [1, 0]], bool)
    np.testing.assert_array_equal(rle_decode([2, 3, 1], (3, 2)), expected)


def test_packed_run_length_as_the_coco_api_writes_it() -> None:
    expected = np.zeros((9, 7), bool)
    expected[2:5, 1:4] = True
    expected[6, 5] = expected[0, 6] = True
    np.testing.assert_array_equal(rle_decode(b";36000=N_O06", (9, 7)), expected)  # pycocotools 2.0


@pytest.mark.parametrize("code", [[2, 3], [7, -1], ";36000=N_O0", ";36000=N_O06`", "\x7f"])
def test_run_length_that_does_not_fit_is_refused(code: object) -> None:
    with pytest.raises(DataError, match="run-length"):
        rle_decode(code, (9, 7))


def test_mask_file_reads_values_palette_and_bilevel(tmp_path) -> None:
    values = np.array([[0, 1, 2], [2, 0, 255]], np.uint8)
    grey = Image.fromarray(values)
    grey.save(tmp_path / "grey.png")
    palette = grey.convert("P")
    palette.putpalette([k for v in range(256) for k in (255 - v, v, 7)])
    palette.putdata(values.ravel().tolist())
    palette.save(tmp_path / "palette.png")
    for name in ("grey.png", "palette.png"):
        np.testing.assert_array_equal(MaskFile(tmp_path / name).read((2, 3)), values != 0)
        np.testing.assert_array_equal(MaskFile(tmp_path / name, (2,)).read((2, 3)), values == 2)
    Image.fromarray((values > 0).astype(np.uint8) * 255).convert("1").save(tmp_path / "one.png")
    np.testing.assert_array_equal(MaskFile(tmp_path / "one.png").read((2, 3)), values > 0)


def test_mask_file_faults_say_what_and_what_was_expected(tmp_path) -> None:
    Image.fromarray(np.zeros((3, 2), np.uint8)).save(tmp_path / "turned.png")
    with pytest.raises(DataError, match=r"3 x 2 .*the image 2 x 3 .*swapped"):
        MaskFile(tmp_path / "turned.png").read((2, 3))
    with pytest.raises(DataError, match="does not exist"):
        MaskFile(tmp_path / "none.png").read((2, 3))
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(DataError, match="cannot be read"):
        MaskFile(tmp_path / "text.png").read((2, 3))
    colour = np.zeros((2, 3, 3), np.uint8)
    colour[0, 0] = 1, 2, 3
    Image.fromarray(colour).save(tmp_path / "colour.png")
    with pytest.raises(DataError, match="colour picture"):
        MaskFile(tmp_path / "colour.png").read((2, 3))


def test_union_box_and_stated_size() -> None:
    union = UnionMask((BoxMask((0, 0, 1, 2)), BoxMask((2, 1, 3, 2)))).read((2, 3))
    np.testing.assert_array_equal(union, [[1, 0, 0], [1, 0, 1]])
    with pytest.raises(DataError, match="the image 2 x 2"):
        RunLengthMask((9,), (3, 3)).read((2, 2))


def test_mask_box_is_half_open() -> None:
    mask = np.zeros((5, 6), bool)
    assert mask_box(mask) is None
    mask[3, 4] = True
    assert mask_box(mask) == (4, 3, 5, 4)
    assert BoxMask(mask_box(mask)).read((5, 6)).sum() == 1


def test_a_polygon_of_50000_points_takes_no_time_and_is_exact():
    rng = np.random.default_rng(0)
    angle = np.sort(rng.uniform(0, 2 * np.pi, 50_000))
    radius = 200 + 30 * rng.standard_normal(50_000)
    points = np.stack([320 + radius * np.cos(angle), 240 + radius * np.sin(angle)], 1)
    start = time.process_time()
    mask = polygon_mask(points.ravel().tolist(), (480, 640))
    assert time.process_time() - start < 1.5
    # the even-odd rule by hand on a few hundred pixels
    ends = np.roll(points, -1, 0)
    for y, x in rng.integers(0, (480, 640), (300, 2)):
        a, b = points[:, 1] <= y + 0.5, ends[:, 1] <= y + 0.5
        here = a != b
        part = (y + 0.5 - points[here, 1]) / (ends[here, 1] - points[here, 1])
        cross = points[here, 0] + part * (ends[here, 0] - points[here, 0])
        assert mask[y, x] == ((cross <= x + 0.5).sum() % 2 == 1)


def test_masks_of_a_label_image_behave_as_a_mapping(tmp_path) -> None:
    Image.fromarray(np.array([[0, 1], [2, 2]], np.uint8)).save(tmp_path / "m.png")
    Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(tmp_path / "a.png")
    index = {
        "classes": {"1": "boat", "2": "water"},
        "images": [{"image": "a.png", "mask": "m.png"}],
    }
    (tmp_path / "index.json").write_text(json.dumps(index))
    (sample,) = open_dataset(tmp_path)
    assert [m.values for m in sample.masks.values()] == [(1,), (2,), (0,)]
    assert dict(sample.masks).keys() == {"boat", "water", "void"}
