"""Masks, boxes, scribbles and points: exact places, exact refusals."""

import pytest
import torch

from attnviz.errors import DataError
from attnviz.guidance import annotate, losses


def test_boxes_are_half_open():
    given = annotate(2, (4, 6), boxes=[(1, 0, 3, 2), [(0, 0, 1, 1), (5, 3, 6, 4)]])
    expected = torch.zeros(2, 4, 6)
    expected[0, 0:2, 1:3] = 1
    expected[1, 0, 0] = expected[1, 3, 5] = 1
    assert torch.equal(given.target, expected)
    assert given.kind.tolist() == [2, 2]


def test_the_grid_holds_covered_shares():
    mask = torch.zeros(1, 4, 4)
    mask[0, 0, :3] = 1
    grid = annotate(1, (4, 4), masks=mask).at((2, 2))
    assert grid.target[0].tolist() == [[0.5, 0.25], [0, 0]]
    assert grid.known.unique().tolist() == [1]
    strokes = torch.zeros(4, 4)
    strokes[0, 0], strokes[0, 1], strokes[3, 3] = 1, -1, -1
    grid = annotate(1, (4, 4), scribbles=[strokes]).at((2, 2))
    assert grid.target[0].tolist() == [[0.5, 0], [0, 0]]
    assert grid.known[0].tolist() == [[0.5, 0], [0, 0.25]]


def test_the_finest_counts_and_the_rest_is_none():
    m = torch.zeros(3, 3)
    m[1, 1] = 1
    given = annotate(
        4, (3, 3), masks=[m, None, None, None], boxes=[(0, 0, 1, 1), (0, 0, 2, 2), None, None],
        points=[None, [(2, 2)], [(1.5, 0.2, -1)], None],
    )  # fmt: skip
    assert given.kind.tolist() == [1, 2, 3, 0]
    assert torch.equal(given.target[0], m)
    assert given.known[1].sum() == 9
    assert (given.known[2].nonzero().tolist(), given.target[2].sum()) == ([[0, 1]], 0)
    assert given.only(1).kind.tolist() == [1, 0, 0, 0]
    assert given.only(1).target[1].sum() == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"masks": [torch.zeros(3, 4)]},
            r"image 7: its mask is \(3, 4\), the model's input \(4, 4\)",
        ),
        ({"masks": [torch.zeros(4, 4)]}, "image 7: its mask is empty"),
        ({"masks": [torch.ones(4, 4)]}, "image 7: its mask is full"),
        ({"masks": [torch.full((4, 4), 255)]}, "values from 255 to 255"),
        ({"masks": [torch.full((4, 4), float("nan"))]}, "values from nan"),
        ({"boxes": [(0, 0, 4, 4)]}, "its box is full"),
        ({"boxes": [(2, 2, 2, 3)]}, "empty or not finite"),
        ({"boxes": [(2, 2, 8, 3)]}, "outside the input of width 4"),
        ({"boxes": [(0.6, 0, 1.4, 2)]}, "its box is empty"),
        ({"boxes": [(0, 0, float("nan"), 2)]}, "not finite"),
        ({"points": [(5, 1)]}, "outside the input"),
        ({"scribbles": [torch.full((4, 4), 2)]}, "1 on the object, -1"),
        ({"masks": [None, None]}, "2 masks for 1 images"),
        ({"weights": [-1.0]}, "at least 0"),
        ({"degenerate": "drop"}, "'error' or 'skip'"),
    ],
)
def test_refusals_name_the_image(options, message):
    with pytest.raises(DataError, match=message):
        annotate(1, (4, 4), first=7, **options)


def test_degenerate_masks_can_be_skipped():
    given = annotate(2, (4, 4), masks=[torch.ones(4, 4), torch.zeros(4, 4)], degenerate="skip")
    assert not given.present.any()
    assert given.known.sum() == 0


def test_masks_of_another_size_than_the_image_are_refused_by_losses():
    with pytest.raises(DataError, match="annotation of 2 images for maps of 3"):
        losses.energy(torch.randn(3, 4, 4), annotate(2, (4, 4)))
    with pytest.raises(DataError, match="1 masks for 2 images"):
        losses.energy(torch.randn(2, 4, 4), torch.zeros(1, 4, 4))
