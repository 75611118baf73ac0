"""Colour tables against matplotlib's."""

from __future__ import annotations

import matplotlib
import numpy as np
import pytest

from attnviz.errors import AttnvizError
from attnviz.render.colour import COLORMAPS, colourise, table


@pytest.mark.parametrize("name", sorted({*COLORMAPS} - {"embers"}))
def test_tables_are_matplotlibs_to_one_level(name):
    theirs = matplotlib.colormaps[name](np.arange(256), bytes=True)[:, :3].astype(float)
    assert np.abs(np.rint(table(name, 256)) - theirs).max() <= 1


@pytest.mark.parametrize("name", COLORMAPS)
def test_a_finer_table_passes_through_the_coarse_one(name):
    coarse = table(name, 256)
    fine = table(name, 255 * 16 + 1)
    assert np.abs(fine[::16] - coarse).max() < 1.5


def test_coolwarm_is_symmetric_in_lightness_and_grey_in_the_middle():
    colours = table("coolwarm", 257)
    assert np.ptp(colours[128]) < 2
    luma = colours @ [0.299, 0.587, 0.114]
    assert luma.argmax() == pytest.approx(128, abs=6)
    assert np.abs(luma - luma[::-1]).max() < 25


def test_colourise_by_hand():
    values = np.array([[0.0, 1.0, np.nan], [-3.0, 7.0, 0.5]])
    out = colourise(values, colormap="gray")
    assert out[..., 0].tolist() == [[0, 255, 128], [0, 255, 128]]
    assert out.dtype == np.uint8
    inferno = matplotlib.colormaps["inferno"]
    ends = np.array(inferno([0.0, 1.0], bytes=True))[:, :3].astype(int)
    drawn = colourise(np.array([0.0, 1.0]), colormap="inferno").astype(int)
    assert np.abs(drawn - ends).max() <= 1


def test_the_brightest_colour_stands_out_from_a_white_photo():
    """inferno ends 164 of 255 in blue: laid over white at opacity .7 that is a pale yellow."""
    assert np.abs(table("embers", 89) - table("inferno", 101)[:89]).max() < 1.5
    shown = {n: 0.3 * 255 + 0.7 * table(n)[-1] for n in ("embers", "inferno")}
    saturation = {n: 1 - c.min() / c.max() for n, c in shown.items()}
    assert saturation["embers"] > 2 * saturation["inferno"]


def test_tables_cannot_be_changed():
    with pytest.raises(ValueError, match="read-only"):
        table("inferno")[0] = 0


def test_unknown_name_has_a_hint():
    with pytest.raises(AttnvizError, match="did you mean 'viridis'"):
        table("virdis")


@pytest.mark.parametrize("name", ["twilight", "PuOr", "jet_r", "tab10"])
def test_any_other_map_of_matplotlib_works(name):
    theirs = matplotlib.colormaps[name]
    size = max(theirs.N, 2)
    expected = theirs(np.linspace(0, 1, size), bytes=True)[:, :3].astype(float)
    assert np.abs(np.rint(table(name, size)) - expected).max() <= 1
