"""Panels and grids as vectors: the same words and lines as in the pictures."""

from __future__ import annotations

import numpy as np
import pytest

from attnviz.errors import DataError
from attnviz.render import Tile, grid_figure, panel_figure
from attnviz.render.vector import COLUMN, WIDTH, encoded

from .test_panel import peak, photo


def lines_of(figure):
    """All contours of a figure as points; the ticks of bars are lines too, of two points."""
    found = [line.get_xydata() for ax in figure.axes for line in ax.lines]
    return [xy for xy in found if len(xy) > 2]


def test_words_are_words_and_contours_are_lines():
    tile = Tile(photo(), peak(), title="boat $9 & more", caption="gradcam <layer4>")
    figure = panel_figure(tile, units="logit", side=240)
    text = encoded(figure, ".svg").decode()
    assert "<text" in text
    for words in ("boat $9 &amp; more", "gradcam &lt;layer4&gt;", "logit", "overlay"):
        assert words in text, words
    assert len(lines_of(figure)) == 3  # one round the peak for each level
    assert figure.get_size_inches()[0] == WIDTH


def test_contours_lie_where_the_map_has_their_value():
    """A ramp from left to right: the line at 50 % stands in the middle of what lies between."""
    ramp = np.tile(np.linspace(0, 1, 4, dtype=np.float32), (4, 1))
    (line,) = lines_of(panel_figure(Tile(photo(), ramp), levels=(0.5,), side=240))
    assert np.abs(line[:, 0] - (120 - 0.5)).max() < 0.5


def test_pictures_keep_their_shape():
    figure = panel_figure(Tile(photo(120, 240), peak()), side=240)
    width, height = figure.get_size_inches()
    for ax in figure.axes[:3]:
        box = ax.get_position()
        assert box.width * width / (box.height * height) == pytest.approx(2.0, rel=1e-3)


def test_a_grid_says_its_scale_and_a_narrow_one_fits_a_column():
    figure = grid_figure([[Tile(photo(), peak(), title="a")]], title="What it sees", units="logit")
    text = " ".join(t.get_text() for t in figure.texts)
    assert "one scale for all maps" in text
    assert "logit" in text
    assert figure.get_size_inches()[0] == COLUMN


def test_files_are_the_same_each_time_and_keep_text_as_text():
    files = [
        encoded(panel_figure(Tile(photo(), peak(), title="boat"), side=240), suffix)
        for suffix in (".svg", ".svg", ".pdf", ".pdf")
    ]
    assert files[0] == files[1]
    assert files[2] == files[3]
    assert files[2].startswith(b"%PDF")
    assert b"/Subtype /Type0" in files[2]
    assert b"/Type3" not in files[2]


def test_a_flat_map_says_so_instead_of_a_bar():
    figure = panel_figure(Tile(photo(), np.ones((4, 4), np.float32)), side=240)
    assert "no evidence" in " ".join(t.get_text() for t in figure.texts)
    assert len(figure.axes) == 3
    with pytest.raises(DataError, match="needs a map"):
        panel_figure(Tile(photo()))
