"""Pictures out: what is read back, by another decoder than the one that wrote it."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from attnviz.errors import DataError
from attnviz.heatmaps import Heatmaps
from attnviz.images import PICTURE_FORMATS, picture_bytes
from attnviz.images.picture import Picture


def smooth():
    y, x = np.mgrid[:61, :67]
    return np.stack([x * 3, y * 4, (x + y) * 2], -1).astype(np.uint8)


def decoded(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.mark.parametrize(("suffix", "error"), [("jpg", 12), ("png", 0), ("webp", 14)])
def test_pictures_come_back_as_they_were(suffix, error):
    assert suffix in PICTURE_FORMATS
    pixels = smooth()
    for picture in (pixels, Image.fromarray(pixels)):
        back = decoded(picture_bytes(picture, f".{suffix}"))
        assert np.abs(back.astype(int) - pixels).max() <= error


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 9, 3), (224, 31, 3)])
def test_png_is_exact_to_the_bit_for_noise_and_for_slices(shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    assert np.array_equal(decoded(picture_bytes(pixels, ".PNG")), pixels)
    assert np.array_equal(decoded(picture_bytes(pixels[:, ::-1], ".png")), pixels[:, ::-1])


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1"])
def test_png_of_other_modes_keeps_mode_and_pixels(mode):
    picture = Image.fromarray(smooth()).convert(mode)
    back = Image.open(io.BytesIO(picture_bytes(picture, ".png")))
    assert back.mode == mode
    assert np.array_equal(np.asarray(back), np.asarray(picture))


def test_png_keeps_what_the_picture_says_of_itself():
    picture = Image.fromarray(smooth())
    picture.info["icc_profile"] = b"a profile"
    back = Image.open(io.BytesIO(picture_bytes(picture, ".png")))
    assert back.info["icc_profile"] == b"a profile"


def test_another_ending_is_told():
    with pytest.raises(DataError, match="gif.*jpg, png, webp"):
        picture_bytes(smooth(), ".gif")


@pytest.mark.parametrize("draw", ["overlay", "panel", "grid"])
def test_maps_are_saved_by_the_one_writer(draw, tmp_path):
    values = torch.rand(1, 7, 7, generator=torch.Generator().manual_seed(0))
    maps = Heatmaps(
        values=values, score=torch.zeros(1), method="gradcam", layer="", target=(0,),
        label=("a",), images=(smooth(),),
    )  # fmt: skip
    picture = getattr(maps, draw)() if draw == "grid" else getattr(maps, draw)(0)
    for name in ("a.png", tmp_path / "b.PNG"):
        picture.save(tmp_path / name)
        assert (tmp_path / name).read_bytes() == picture_bytes(np.asarray(picture), ".png")
    picture.save(tmp_path / "c.png", optimize=True)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "c.png")), np.asarray(picture))
    stream = io.BytesIO()
    picture.save(stream, "JPEG")
    picture.save(tmp_path / "d.jpg")
    assert stream.getvalue() == (tmp_path / "d.jpg").read_bytes()
    assert isinstance(picture, Picture)
    assert isinstance(picture.resize((5, 5)), Image.Image)
