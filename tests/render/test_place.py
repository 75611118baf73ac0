"""Placing maps on photos, against torch's interpolation and against resizing with Pillow."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from attnviz.geometry import Geometry
from attnviz.images import read_image
from attnviz.render.place import place, place_tensor, scaled


@pytest.mark.parametrize("size", [(50, 80), (7, 5), (3, 4), (1, 1), (7, 40), (90, 2)])
@pytest.mark.parametrize("cells", [(7, 5), (1, 1), (40, 64)])
def test_whole_photo_is_torch_bilinear(cells, size):
    values = torch.rand(cells)
    theirs = F.interpolate(
        values[None, None], size, mode="bilinear", align_corners=False, antialias=True
    )[0, 0]
    ours = place(values.numpy(), Geometry.identity(*size))
    assert np.abs(ours - theirs.numpy()).max() < 1e-5


@pytest.mark.parametrize("size", [(50, 80), (21, 15), (22, 400)])
def test_smooth_is_torch_bicubic_within_the_maps_range(size):
    values = torch.rand(7, 5).round()  # of steps, which a cubic overshoots
    theirs = F.interpolate(
        values[None, None], size, mode="bicubic", align_corners=False, antialias=True
    )[0, 0]
    assert theirs.max() > 1.01
    ours = place(values.numpy(), Geometry.identity(*size), smooth=True)
    assert np.abs(ours - theirs.clamp(values.min(), values.max()).numpy()).max() < 1e-5
    centres = place(values.numpy(), Geometry.identity(35, 25), smooth=True)[2::5, 2::5]
    assert np.abs(centres - values.numpy()).max() < 1e-6  # through the cells' own values


def test_smooth_is_linear_where_cells_are_small():
    values = np.random.default_rng(0).random((20, 30), dtype=np.float32)
    small = Geometry.identity(50, 100)
    assert np.array_equal(place(values, small, smooth=True), place(values, small))


@pytest.mark.parametrize(
    "crop", [(10.0, 4.0, 60.0, 44.0), (3.3, 7.7, 71.2, 45.9), (-12.5, -3.0, 90.0, 60.5)]
)
def test_a_crop_is_sampled_where_it_lies(crop):
    height, width = 50, 80
    values = torch.rand(6, 7, dtype=torch.float64)
    left, top, right, bottom = crop
    # an independent route: sample the map at each pixel's centre, in torch's -1 to 1 coordinates
    x = (torch.arange(width, dtype=torch.float64) + 0.5 - left) / (right - left)
    y = (torch.arange(height, dtype=torch.float64) + 0.5 - top) / (bottom - top)
    at = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], dim=-1) * 2 - 1
    theirs = F.grid_sample(
        values[None, None], at[None], mode="bilinear", padding_mode="border", align_corners=False
    )[0, 0]
    outside = ((y < 0) | (y >= 1))[:, None] | ((x < 0) | (x >= 1))[None, :]
    ours = place(values.numpy(), Geometry((height, width), (224, 224), crop))
    assert np.array_equal(np.isnan(ours), outside.numpy())
    assert np.nanmax(np.abs(ours - theirs.numpy())[~outside.numpy()]) < 2e-6
    tensor = place_tensor(values[None], Geometry((height, width), (224, 224), crop))[0]
    assert torch.equal(torch.isnan(tensor), outside)
    assert (tensor - theirs)[~outside].abs().max() < 1e-6


def test_many_columns_take_another_road_to_the_same_values():
    values = np.random.default_rng(0).random((64, 64), dtype=np.float32)
    exact = place(values, Geometry((100, 200), (64, 64), (20.0, 10.0, 180.0, 90.0)))
    shifted = place(values, Geometry((100, 200), (64, 64), (20.0 + 1e-9, 10.0, 180.0, 90.0)))
    assert np.nanmax(np.abs(exact - shifted)) < 2e-6
    assert np.array_equal(np.isnan(exact), np.isnan(shifted))


def test_a_map_at_the_photos_resolution_is_not_touched():
    values = np.random.default_rng(0).random((30, 40), dtype=np.float32)
    assert np.array_equal(place(values, Geometry.identity(30, 40)), values)
    inner = place(values, Geometry((50, 60), (30, 40), (5.0, 7.0, 45.0, 37.0)))
    assert np.array_equal(inner[7:37, 5:45], values)
    assert np.isnan(inner).sum() == 50 * 60 - 30 * 40


def test_a_crop_beside_the_photo_covers_nothing():
    values = np.ones((3, 3), np.float32)
    for crop in [(100.0, 0.0, 120.0, 20.0), (0.0, -40.0, 20.0, -20.0), (5.1, 5.1, 5.3, 5.3)]:
        assert np.isnan(place(values, Geometry((20, 20), (9, 9), crop))).all()


def test_place_tensor_keeps_the_graph():
    values = torch.rand(2, 3, 4, dtype=torch.float64, requires_grad=True)
    geometry = Geometry((9, 11), (12, 16), (1.5, 2.0, 9.5, 8.0))
    assert torch.autograd.gradcheck(lambda v: place_tensor(v, geometry).nan_to_num(0.0), values)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("cell", [(0, 0), (3, 5), (6, 2), (6, 6)])
def test_one_hot_lands_on_its_pixels_after_resize_256_crop_224(cell, orientation):
    """Light one cell of the input by painting the stored file, then ask where the map puts it."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.new("L", (500, 375))
    buffer = io.BytesIO()
    stored.save(buffer, "PNG", exif=exif)
    height, width = read_image(buffer.getvalue()).shape[:2]
    assert (height, width) == ((375, 500) if orientation in (1, 3) else (500, 375))

    ratio = 256 / min(height, width)
    h, w = round(height * ratio), round(width * ratio)
    top, left = (h - 224) // 2, (w - 224) // 2
    crop = (
        left * width / w,
        top * height / h,
        (left + 224) * width / w,
        (top + 224) * height / h,
    )
    one_hot = np.zeros((7, 7), np.float32)
    one_hot[cell] = 1.0
    placed = np.nan_to_num(place(one_hot, Geometry((height, width), (224, 224), crop)))

    # forwards, as a model's preprocessing goes: the placed map through Pillow must give the cell
    resized = Image.fromarray(placed).resize((w, h), Image.BILINEAR)
    seen = np.asarray(resized)[top : top + 224, left : left + 224]
    pooled = seen.reshape(7, 32, 7, 32).mean((1, 3))
    assert np.unravel_index(pooled.argmax(), (7, 7)) == cell
    y, x = np.unravel_index(placed.argmax(), placed.shape)
    scale = width / w
    assert abs(y + 0.5 - (top + 32 * cell[0] + 16) * height / h) <= 16 * scale + 1
    assert abs(x + 0.5 - (left + 32 * cell[1] + 16) * scale) <= 16 * scale + 1
    # the bump is symmetric unless it touches the crop's edge, so its centre of mass is the cell's
    if cell == (3, 5):
        mass = placed / placed.sum()
        at_y = (mass.sum(1) * (np.arange(height) + 0.5)).sum()
        at_x = (mass.sum(0) * (np.arange(width) + 0.5)).sum()
        assert at_y == pytest.approx((top + 32 * 3 + 16) * height / h, abs=0.2)
        assert at_x == pytest.approx((left + 32 * 5 + 16) * width / w, abs=0.2)


def test_scaled_geometry_shows_the_same_place():
    geometry = Geometry((100, 200), (224, 224), (50.0, 10.0, 130.0, 90.0))
    half = scaled(geometry, (50, 100))
    assert half.crop == (25.0, 5.0, 65.0, 45.0)
    assert half.to_image(112, 112) == (45.0, 25.0)
