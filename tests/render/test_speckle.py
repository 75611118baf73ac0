"""What is drawn of maps of single pixels, and of maps that hardly vary."""

from __future__ import annotations

import numpy as np
import pytest

from attnviz.render import Tile, grid
from attnviz.render.colour import table
from attnviz.render.scaling import Scale
from attnviz.render.speckle import clipped, smoothed


def bump(side=112):
    y, x = np.mgrid[:side, :side] - side / 2
    return np.exp(-(x**2 + y**2) / (2 * 15.0**2)).astype(np.float32)


def test_only_speckled_maps_are_smoothed_and_a_region_s_sum_stays():
    noise = np.random.default_rng(0).normal(size=(112, 112)).astype(np.float32)
    for smooth in (bump(), bump()[::16, ::16], np.full((112, 112), 0.3, np.float32)):
        same, sigma = smoothed(smooth)
        assert same is smooth
        assert sigma == 0.0
    speckled = noise + bump()  # the bump drowns in the noise of single pixels
    drawn, sigma = smoothed(speckled)
    assert sigma == pytest.approx(2.0)
    assert drawn.sum() == pytest.approx(speckled.sum(), rel=1e-3)
    inside = bump() > 0.5
    assert drawn[inside].mean() > drawn[~inside].mean() + 0.5
    assert np.abs(np.diff(drawn, axis=0)).mean() < np.abs(np.diff(speckled, axis=0)).mean() / 4
    small = noise[:32, :32]
    assert smoothed(small)[0] is small  # a coarse map is what it is


def test_one_outlier_does_not_blank_the_rest():
    values = np.random.default_rng(0).random((100, 100)).astype(np.float32)
    values[0, 0] = 1e6
    cut = clipped(values)
    assert cut.max() < 1.0
    assert cut.min() == pytest.approx(np.percentile(values, 1))
    assert np.array_equal(cut[(values > 0.02) & (values < 0.98)],
                          values[(values > 0.02) & (values < 0.98)])  # fmt: skip


def test_a_nearly_flat_map_looks_nearly_flat():
    values = np.linspace(5.03e-3, 5.13e-3, 49, dtype=np.float32).reshape(7, 7)  # 2 % of its value
    scale = Scale.of([values])
    assert scale.nearly
    assert scale.apply(values).max() == pytest.approx(0.02 / 0.25, rel=0.03)
    assert "nearly flat" in scale.describe()
    plain = Scale.of([np.linspace(0.1, 1.0, 49, dtype=np.float32).reshape(7, 7)])
    assert not plain.nearly
    assert (plain.low, plain.high) == (pytest.approx(0.1), 1.0)


def test_in_a_grid_each_kind_of_map_keeps_its_own_scale():
    photo = np.full((60, 60, 3), 128, np.uint8)
    unsigned = np.eye(7, dtype=np.float32)
    signed = unsigned - 0.5
    picture = np.asarray(grid([[Tile(photo, unsigned), Tile(photo, signed)]], shared=False))

    def bars(name):  # rows of the picture that show a whole colour bar
        ends = np.rint(table(name)[[0, -1]])
        return sum(
            (np.abs(row - ends[:, None]).max(-1) <= 1).any(1).all() for row in picture.astype(int)
        )

    assert bars("embers") >= 10
    assert bars("coolwarm") >= 10
    alone = np.asarray(grid([[Tile(photo, unsigned)]], shared=False))
    top = slice(0, 16 + 60)
    assert np.array_equal(picture[top, 16:136], alone[top, 16:136])  # not drawn as if signed
