"""Panels and grids: what stands where, and on which scale."""

from __future__ import annotations

import numpy as np
import pytest

from attnviz.errors import DataError
from attnviz.geometry import Geometry
from attnviz.render import Scale, Tile, grid, overlay, panel
from attnviz.render import text as texts
from attnviz.render.colour import table
from attnviz.render.panel import GAP, MARGIN
from attnviz.render.tiles import draw_map, draw_overlay, fit

SIDE = 240


def photo(height=180, width=240, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def peak(at=(2, 3)):
    values = np.zeros((7, 7), np.float32)
    values[at] = 5.0
    return values


def find(page, piece):
    """Where a picture stands in another, (y, x) or None."""
    pixels = np.asarray(page)
    for y, x in np.argwhere((pixels == piece[0, 0]).all(-1)):
        window = pixels[y : y + len(piece), x : x + piece.shape[1]]
        if window.shape == piece.shape and np.array_equal(window, piece):
            return int(y), int(x)
    return None


def bar_of(page, room):
    """The colour bar: the only 12 rows whose first and last colours are the map's ends."""
    pixels = np.asarray(page)[:, MARGIN : MARGIN + room].astype(int)
    for y in range(len(pixels) - 12, 0, -1):
        if (pixels[y] == 255).all(-1).sum() <= 3 and (pixels[y] == pixels[y + 11]).all():
            return pixels[y]
    return None


def test_panel_shows_photo_overlay_and_contours_in_one_row():
    image, values = photo(), peak()
    page = panel(Tile(image, values, title="boat 9.1", caption="gradcam"), side=SIDE)
    first = find(page, image)
    second = find(page, overlay(image, values / 5))
    assert first is not None
    assert second == (first[0], first[1] + SIDE + GAP)
    third = np.asarray(page)[first[0] : first[0] + 180, first[1] + 2 * (SIDE + GAP) :][:, :SIDE]
    assert (third == 255).all(-1).any()  # the white lines


def test_bar_runs_from_the_lowest_to_the_highest_colour():
    page = panel(Tile(photo(), peak()), side=SIDE, colormap="viridis")
    bar = bar_of(page, 3 * SIDE + 2 * GAP)
    assert np.abs(bar[0] - table("viridis")[0]).max() <= 1
    assert np.abs(bar[-1] - table("viridis")[-1]).max() <= 1


def test_a_signed_map_is_drawn_and_scaled_about_zero():
    values = peak() - 1.0
    scale = Scale.of([values])
    assert (scale.low, scale.high) == (-4.0, 4.0)
    page = panel(Tile(photo(), values), side=SIDE)
    bar = bar_of(page, 3 * SIDE + 2 * GAP)
    assert np.abs(bar[0] - table("coolwarm")[0]).max() <= 1
    assert np.ptp(bar[len(bar) // 2]) < 4  # grey in the middle


@pytest.mark.parametrize("level", [0.0, 3.0])
def test_a_flat_map_says_so_and_has_no_bar(level, monkeypatch):
    said = []
    write = texts.stamp
    monkeypatch.setattr("attnviz.render.tiles.stamp", lambda p, *a: said.append(1) or write(p, *a))
    noise = np.random.default_rng(0).random((7, 7)).astype(np.float32) * 1e-7
    page = panel(Tile(photo(), level + noise * level), side=SIDE)
    assert said == [1, 1]  # on the overlay and on the contours
    assert bar_of(page, 3 * SIDE + 2 * GAP) is None


def test_no_evidence_leaves_the_picture_above_the_words_alone():
    image = photo()
    plain = overlay(image, np.zeros((7, 7)))
    drawn = draw_overlay(Tile(image, np.full((7, 7), 2.0)), Scale.of([np.full((7, 7), 2.0)]), SIDE)
    changed = np.flatnonzero((drawn != plain).any((1, 2)))
    assert changed.min() > 130
    tiny = photo(6, 6)
    assert np.array_equal(texts.stamp(tiny), tiny)  # no room for legible words


def test_without_a_photo_the_map_is_drawn_alone():
    page = panel(Tile(None, peak()), side=SIDE)
    alone = draw_map(Tile(None, peak()), Scale.of([peak()]), SIDE)
    assert find(page, alone) is not None
    y, x = np.unravel_index(alone.astype(int).sum(-1).argmax(), alone.shape[:2])
    assert abs(y - 2.5 / 7 * SIDE) < 6
    assert abs(x - 3.5 / 7 * SIDE) < 6


def test_the_crop_keeps_its_place_at_the_panels_size():
    big = photo(360, 480)
    geometry = Geometry((360, 480), (224, 224), (240.0, 0.0, 480.0, 240.0))
    drawn = draw_overlay(Tile(big, peak((0, 6)), geometry), Scale.of([peak()]), SIDE)
    base = overlay(fit(big, SIDE), np.zeros((7, 7)))
    changed = np.argwhere((drawn != base).any(-1))
    assert changed.min(0).tolist() == [0, 120]  # the crop's left edge, at half size
    assert changed.max(0).tolist() == [119, 239]


@pytest.mark.parametrize("size", [(1, 1), (3, 500), (500, 3), (28, 28)])
def test_any_photo_fits(size):
    page = panel(Tile(photo(*size), peak(), title="a title " * 30, caption="words " * 60))
    assert page.width <= 3 * 360 + 2 * GAP + 2 * MARGIN


def test_a_grid_on_one_scale_shows_equal_values_alike():
    image, low, high = photo(), peak(), 2 * peak()
    one = grid([[Tile(image, low), Tile(image, high)]], side=SIDE)
    assert find(one, overlay(image, high / 10)) is not None
    assert find(one, overlay(image, low / 10)) is not None
    each = grid([[Tile(image, low), Tile(image, high)]], side=SIDE, shared=False)
    first = find(each, overlay(image, low / 5))
    assert first is not None
    pixels = np.asarray(each)[first[0] : first[0] + 180]
    left = first[1] + SIDE + GAP
    assert np.array_equal(pixels[:, left : left + SIDE], overlay(image, high / 10))


def test_a_grid_takes_photos_gaps_and_ragged_rows():
    image = photo()
    page = grid(
        [[Tile(image, title="photo"), Tile(image, peak())], [None, Tile(image, peak())]], side=SIDE
    )
    assert find(page, image) is not None
    with pytest.raises(DataError, match="at least one map"):
        grid([[Tile(image)], [None]])


def test_an_infinite_map_is_refused():
    with pytest.raises(DataError, match="infinite"):
        panel(Tile(photo(), np.full((7, 7), np.inf)))


def test_text_is_kept_within_its_room():
    words = "supercalifragilistic words that go on and on without an end in sight " * 4
    for room in (60, 150, 400):
        lines = texts.wrap(words, 12, room, most=3)
        assert len(lines) == 3
        assert lines[-1].endswith("…")
        assert all(texts.width(line, 12) <= room for line in lines)
    assert texts.wrap("one two", 12, 400) == ["one two"]
    assert texts.wrap("one\ntwo", 12, 400) == ["one", "two"]


def test_inputs_are_left_alone():
    image, values, truth = photo(), peak(), np.array([[10, 10, 90, 90]])
    before = image.copy(), values.copy(), truth.copy()
    for array in (image, values, truth):
        array.setflags(write=False)
    panel(Tile(image, values, truth=truth))
    grid([[Tile(image, values, truth=truth)]])
    for array, was in zip((image, values, truth), before, strict=True):
        assert np.array_equal(array, was)
