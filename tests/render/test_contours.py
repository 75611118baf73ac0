"""Lines: against where they must be by hand."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from attnviz.errors import DataError
from attnviz.geometry import Geometry
from attnviz.render import contours, truth_outline
from attnviz.render.contours import (
    TRUTH,
    _dashed,
    frame,
    is_part,
    isolines,
    truth_paths,
)

GREY = np.full((200, 300, 3), 90, np.uint8)


def is_colour(picture, colour):
    return (picture == np.array(colour, np.uint8)).all(-1)


def test_isoline_of_a_ramp_is_where_the_ramp_has_the_value():
    ramp = np.tile(np.arange(11, dtype=float)[None] / 10, (5, 1))  # pixel i has its centre at i+.5
    (line,) = isolines(ramp, 0.25)
    assert np.allclose(line[:, 0], 3.0)  # 2.5 pixels after the centre of pixel 0
    assert line[:, 1].min() == 0.5
    assert line[:, 1].max() == 4.5


def test_isoline_of_a_cone_is_a_circle():
    y, x = np.mgrid[:101, :101] - 50
    (line,) = isolines(np.maximum(0, 1 - np.hypot(x, y) / 50), 0.5)
    assert np.abs(np.hypot(*(line - 50.5).T) - 25).max() < 0.1


def test_isolines_stop_where_the_map_is_nan_and_constant_maps_have_none():
    ramp = np.tile(np.arange(11, dtype=float)[None] / 10, (8, 1))
    ramp[4:] = np.nan
    (line,) = isolines(ramp, 0.25)
    assert line[:, 1].max() == 3.5
    for flat in (np.zeros((9, 9)), np.full((9, 9), np.nan), np.ones((1, 9))):
        assert isolines(flat, 0.5) == []


def test_contours_are_white_on_black_at_their_place():
    ramp = np.tile(np.linspace(0, 1, 300)[None], (2, 1))
    drawn = contours(GREY, ramp, levels=(0.5,))
    middle = drawn[100]
    assert (middle[149:151] > 225).all()  # a pixel wide, between two pixels: half of each
    assert (middle[146:154].max(-1) < 60).sum() >= 2  # a halo on both sides
    changed = np.flatnonzero((middle != 90).any(-1))
    assert changed.min() > 140
    assert changed.max() < 160
    assert (GREY == 90).all()


def test_a_closed_contour_has_no_gap():
    y, x = np.mgrid[:200, :300]
    for shape in (np.hypot(x - 150, y - 100), np.abs(x - 150) + np.abs(y - 100)):
        drawn = contours(GREY, np.maximum(0, 1 - shape / 100), levels=(0.5,))
        outside = cv2.floodFill((drawn != 90).any(-1).astype(np.uint8), None, (0, 0), 1)[1]
        assert not outside[100, 150]  # the flood did not leak in


def test_signed_contours_are_of_the_positive_half():
    ramp = np.tile(np.linspace(0, 1, 300)[None], (2, 1))
    drawn = contours(GREY, ramp, levels=(0.5,), signed=True)  # half of the positive half: 0.75
    assert np.abs(np.flatnonzero((drawn[100] > 150).all(-1)) - 224.5).max() < 4


def test_contours_stay_in_the_crop():
    rows, columns = np.mgrid[:9, :9]
    bump = 1 - np.maximum(abs(rows - 4), abs(columns - 4)) / 4.0
    geometry = Geometry((200, 300), (224, 224), (100.0, 50.0, 200.0, 150.0))
    drawn = contours(GREY, bump, geometry=geometry)
    changed = np.argwhere((drawn != GREY).any(-1))
    assert changed.min(0).tolist() >= [48, 98]
    assert (changed.max(0) <= [152, 202]).all()


@pytest.mark.parametrize("level", [0.0, 1.0, -1.0])
def test_levels_out_of_range(level):
    with pytest.raises(DataError, match="levels"):
        contours(GREY, np.eye(3), levels=(level,))


def test_truth_of_a_box_is_its_edge():
    (path,) = truth_paths(np.array([10, 20, 40, 60]), (200, 300))
    assert path.min(0).tolist() == [10, 20]
    assert path.max(0).tolist() == [40, 60]
    assert len(truth_paths(np.array([[1, 2, 3, 4], [5, 6, 7, 8]]), (200, 300))) == 2
    assert truth_paths(np.zeros((0, 4)), (200, 300)) == []


def test_truth_of_a_mask_runs_between_its_pixels():
    mask = np.zeros((200, 300), bool)
    mask[20:60, 10:40] = True
    (path,) = truth_paths(mask, (200, 300))
    assert path.min(0).tolist() == [10, 20]
    assert path.max(0).tolist() == [40, 60]
    mask[:] = True  # also where the mask touches the photo's edge
    (path,) = truth_paths(mask, (200, 300))
    assert path.min(0).tolist() == [0, 0]
    assert path.max(0).tolist() == [300, 200]


def test_truth_is_drawn_dashed_on_a_copy():
    drawn = truth_outline(GREY, np.array([50, 50, 250, 150]))
    top = drawn[50]
    painted = is_colour(top, TRUTH)[60:240]
    assert 0.3 < painted.mean() < 0.9  # dashes and gaps
    assert (drawn[80:120, 80:220] == 90).all()
    assert (GREY == 90).all()
    twice = truth_outline(GREY, np.array([25, 25, 125, 75]), size=(100, 150))
    assert np.array_equal(twice, drawn)


def test_dashes_follow_the_path():
    path = np.array([[0.0, 0.0], [10.0, 0.0], [10.0, 10.0]])
    pieces = _dashed(path, 6.0, 2.0)
    assert [p.tolist() for p in pieces] == [
        [[0, 0], [6, 0]],
        [[8, 0], [10, 0], [10, 4]],
        [[10, 6], [10, 10]],
    ]


def test_truth_of_the_wrong_shape():
    with pytest.raises(DataError, match=r"mask of the photo's \(200, 300\)"):
        truth_outline(GREY, np.zeros((100, 100), bool))


def test_frame_is_on_the_crop_and_only_if_it_is_a_part():
    whole = Geometry.identity(200, 300)
    assert not is_part(whole)
    assert np.array_equal(frame(GREY, whole), GREY)
    padded = Geometry((200, 300), (224, 224), (0.0, -50.0, 300.0, 250.0))
    assert np.array_equal(frame(GREY, padded), GREY)
    part = Geometry((200, 300), (224, 224), (50.0, 20.0, 250.0, 180.0))
    changed = (frame(GREY, part) != GREY).any(-1)
    assert changed[20, 50:250].all()
    assert changed[179, 50:250].all()
    assert changed[20:180, 50].all()
    assert changed[20:180, 249].all()
    assert changed.sum() == 2 * 200 + 2 * 158 + 2 * 198 + 2 * 156  # light outside, dark inside
