"""Overlays: against the blend written out in floats, and the torch path against OpenCV's."""

from __future__ import annotations

import matplotlib
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from attnviz.errors import DataError
from attnviz.geometry import Geometry
from attnviz.render import overlay, overlay_tensor
from attnviz.render.overlay import ALPHA, DESATURATE, GAMMA, blend_on_device, packed_table

LUMA = np.array([0.299, 0.587, 0.114])


def photo(height=40, width=60, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def written_out(image, h, *, name="inferno", alpha=0.7, gamma=1.0, desaturate=0.5, signed=False):
    """The documented formula in float64, h at the photo's resolution."""
    base = (1 - desaturate) * image + desaturate * (image @ LUMA)[..., None]
    colours = matplotlib.colormaps[name](np.arange(256))[:, :3] * 255
    at = np.clip(h, 0, 1) * 255
    colour = np.stack([np.interp(at, np.arange(256), colours[:, c]) for c in range(3)], -1)
    opacity = alpha * (np.abs(2 * h - 1) if signed else h) ** gamma
    return (1 - opacity[..., None]) * base + opacity[..., None] * colour


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"alpha": 1.0, "gamma": 1.0},
        {"desaturate": 0.0},
        {"desaturate": 1.0, "gamma": 2.0},
        {"name": "coolwarm", "signed": True},
        {"name": "cividis"},
        {"name": "jet"},
    ],
)
@pytest.mark.parametrize("size", [(40, 60), (700, 300), (1, 1), (3, 2000)])
def test_overlay_is_the_documented_blend(size, options):
    image, values = photo(*size), torch.rand(5, 6)
    # cells of three pixels and more are joined smoothly, within the map's range
    how = "bicubic" if size[0] >= 15 and size[1] >= 18 else "bilinear"
    h = F.interpolate(values[None, None], size, mode=how, align_corners=False, antialias=True)
    h = h[0, 0].double().clamp(values.min(), values.max())
    expected = written_out(image, h.numpy(), **options)
    given = {k: v for k, v in options.items() if k != "name"}
    ours = overlay(image, values.numpy(), colormap=options.get("name", "inferno"), **given)
    assert ours.shape == image.shape
    assert ours.dtype == np.uint8
    assert np.abs(ours - expected).max() <= 2


def test_one_pixel_by_hand():
    grey = np.full((1, 1, 3), 100, np.uint8)
    # opacity .7 at the top; the last colour of inferno is (252, 255, 164)
    expected = 0.3 * 100 + 0.7 * np.array([252, 255, 164])
    top = overlay(grey, np.ones((1, 1)), colormap="inferno")[0, 0]
    assert np.abs(top - expected).max() <= 2
    # half way: .7 * .5 = .35; the middle of inferno is (188, 55, 84)
    expected = 0.65 * 100 + 0.35 * np.array([188, 55, 84])
    half = overlay(grey, np.full((1, 1), 0.5), colormap="inferno")[0, 0]
    assert np.abs(half - expected).max() <= 2


def test_zero_shows_the_photo_and_brightness_is_never_stretched():
    image = photo() // 4 + 60  # a dull photo: 60 to 123
    assert np.array_equal(overlay(image, np.zeros((7, 7)), desaturate=0), image)
    grey = overlay(image, np.zeros((7, 7)), desaturate=1)
    assert np.abs(grey - (image @ LUMA)[..., None]).max() <= 1
    kept = overlay(image, np.zeros((7, 7)))
    assert np.abs((kept - image.astype(float)) @ LUMA).max() <= 1  # luma stays


def test_nothing_given_is_changed():
    image, values = photo(), np.random.default_rng(0).random((7, 7))
    values[0, 0] = np.nan
    image_before, values_before = image.copy(), values.copy()
    image.setflags(write=False)
    values.setflags(write=False)
    out = overlay(image, values)
    assert np.array_equal(image, image_before)
    assert np.array_equal(values, values_before, equal_nan=True)
    assert not np.shares_memory(out, image)
    tensors = torch.from_numpy(image_before.copy()).permute(2, 0, 1)[None], torch.rand(1, 7, 7)
    before = [t.clone() for t in tensors]
    overlay_tensor(*tensors)
    assert all(torch.equal(a, b) for a, b in zip(tensors, before, strict=True))


def test_a_view_of_an_array_is_drawn_like_its_copy():
    image = photo(80, 120)[::2, ::-2]
    values = np.random.default_rng(0).random((7, 7))
    assert np.array_equal(overlay(image, values.T), overlay(image.copy(), values.T.copy()))


def test_outside_the_crop_only_the_photo_is_drawn():
    image = photo()
    geometry = Geometry((40, 60), (224, 224), (10.0, 5.0, 40.0, 35.0))
    plain, drawn = overlay(image, np.zeros((7, 7))), None
    drawn = overlay(image, np.ones((7, 7)), geometry=geometry)
    inside = np.zeros((40, 60), bool)
    inside[5:35, 10:40] = True
    assert np.array_equal(drawn[~inside], plain[~inside])
    assert (drawn[inside] != plain[inside]).any(-1).all()
    beside = Geometry((40, 60), (224, 224), (100.0, 5.0, 140.0, 35.0))
    assert np.array_equal(overlay(image, np.ones((7, 7)), geometry=beside), plain)


def test_nan_and_the_signed_centre_are_transparent():
    image = photo()
    plain = overlay(image, np.zeros((7, 7)))
    nothing = np.full((7, 7), np.nan)
    assert np.array_equal(overlay(image, nothing), plain)
    assert np.array_equal(overlay(image, nothing, signed=True), plain)
    assert np.array_equal(overlay(image, np.full((7, 7), 0.5), signed=True), plain)


def test_values_beyond_the_ends_take_the_ends():
    image = photo()
    wild, tame = np.array([[-3.0, 9.0]]), np.array([[0.0, 1.0]])
    assert np.array_equal(overlay(image, wild), overlay(image, tame))


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("cells", [(7, 7), (14, 9), (64, 64)])
def test_the_device_path_agrees_to_one_grey_level(signed, cells):
    geometry = Geometry((90, 120), (224, 224), (13.4, -5.0, 101.2, 88.3))
    images = np.stack([photo(90, 120, seed) for seed in range(3)])
    values = torch.rand(3, *cells)
    values[0, 0, 0] = float("nan")
    name = "coolwarm" if signed else "embers"
    on_device = blend_on_device(
        torch.from_numpy(images).permute(0, 3, 1, 2),
        values,
        geometry,
        signed,
        packed_table(name, signed, ALPHA, GAMMA),
        DESATURATE,
    )
    for image, value, theirs in zip(images, values.numpy(), on_device, strict=True):
        ours = overlay(image, value, geometry=geometry, signed=signed)
        gap = np.abs(ours.astype(int) - theirs.permute(1, 2, 0).numpy())
        assert gap.max() <= 1


def test_tensors_on_the_cpu_go_through_opencv():
    images = np.stack([photo(seed=seed) for seed in range(2)])
    values = torch.rand(2, 7, 7)
    out = overlay_tensor(torch.from_numpy(images).permute(0, 3, 1, 2), values)
    for image, value, theirs in zip(images, values.numpy(), out, strict=True):
        assert np.array_equal(overlay(image, value), theirs.permute(1, 2, 0).numpy())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_tensors_on_a_gpu_stay_there():
    images = torch.from_numpy(photo()).permute(2, 0, 1)[None].cuda()
    values = torch.rand(1, 7, 7).cuda()
    out = overlay_tensor(images, values)
    assert out.device == images.device
    ours = overlay(photo(), values[0].cpu().numpy()).astype(int)
    assert np.abs(ours - out[0].permute(1, 2, 0).cpu().numpy()).max() <= 1


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((photo().astype(float), np.ones((7, 7))), {}, "uint8"),
        ((photo()[..., 0], np.ones((7, 7))), {}, r"\(H, W, 3\)"),
        ((photo(), np.ones((1, 7, 7))), {}, "one map"),
        ((photo(), np.ones((7, 7))), {"alpha": 1.1}, "alpha is 1.1"),
        ((photo(), np.ones((7, 7))), {"gamma": 0.0}, "gamma is 0"),
        ((photo(), np.ones((7, 7))), {"desaturate": -1}, "desaturate is -1"),
        ((photo(), np.ones((7, 7))), {"geometry": Geometry.identity(41, 60)}, "of a photo of"),
    ],
)
def test_what_does_not_fit_is_said(arguments, options, message):
    with pytest.raises(DataError, match=message):
        overlay(*arguments, **options)
