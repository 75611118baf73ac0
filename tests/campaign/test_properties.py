"""Inputs of any shape, type, stride and value: right, or refused, and never altered."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import nn

import attnviz
from attnviz.data.masks import mask_box, polygon_mask, rle_decode, rle_encode
from attnviz.errors import AttnvizError
from attnviz.geometry import Geometry
from attnviz.heatmaps import Heatmaps
from attnviz.images import read_image
from attnviz.render import overlay

pytest.importorskip("hypothesis")
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.filterwarnings("ignore::attnviz.errors.AttnvizWarning")
DTYPES = (
    torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.uint8, torch.int16,
    torch.int64, torch.bool, torch.complex64,
)  # fmt: skip
VALUES = (0.0, -0.0, 1.0, -1.0, 255.0, 1e-45, 1e38, -1e38, float("inf"), float("nan"))
STRIDES = ("plain", "transposed", "every second", "expanded", "flipped", "not from the start")


@st.composite
def tensors(draw, ranks=(0, 6), most=9):
    """A tensor of any rank, type, stride and value, zero sizes among them."""
    shape = draw(st.lists(st.integers(0, most), min_size=ranks[0], max_size=ranks[1]))
    value = draw(st.sampled_from(VALUES))
    made = torch.rand([n + 1 for n in shape]) * value if draw(st.booleans()) else torch.full(
        [n + 1 for n in shape], value
    )  # fmt: skip
    dtype = draw(st.sampled_from(DTYPES))
    made = made.nan_to_num(0, 0, 0).clamp(-100, 100) if not dtype.is_floating_point else made
    made = made.to(dtype)
    kind = draw(st.sampled_from(STRIDES))
    if not shape:
        return made
    if kind == "transposed":
        made = made.transpose(0, -1)
    elif kind == "every second":
        made = made[::2]
    elif kind == "expanded":
        made = made[:1].expand(shape[0] or 1, *made.shape[1:])
    elif kind == "flipped":
        made = made.flip(0)
    elif kind == "not from the start":
        made = made[1:]
    return made


def often(campaign, test, at_size_one, **given_by):
    """Run a property as often as the campaign says, the same examples every time."""
    quiet = list(HealthCheck)
    settings(
        max_examples=campaign(at_size_one), derandomize=True, deadline=None, database=None,
        suppress_health_check=quiet,
    )(given(**given_by)(test))()  # fmt: skip


def attempt(call):
    """Return what a call gives, or None where it is refused; any other error is the test's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return call()
        except AttnvizError:
            return None


def test_any_tensor_explained(campaign):
    """Tensors of any rank, type, stride and value as a batch: maps or a refusal, input kept."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, 3),
    ).eval()  # fmt: skip
    state = {k: v.clone() for k, v in net.state_dict().items()}

    def run(x, method):
        before = x.clone()
        maps = attempt(lambda: attnviz.explain(net, x, method=method))
        assert torch.equal(torch.nan_to_num(before), torch.nan_to_num(x))
        assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
        if maps is not None:
            assert maps.values.ndim == 3
            assert len(maps) in (1, *x.shape[:1])
            assert bool(maps.values.isfinite().all())

    pictures = st.one_of(
        tensors(),
        st.builds(
            lambda n, h, w, v: torch.rand(n, 3, h, w) * v,
            st.integers(0, 3), st.integers(0, 40), st.integers(0, 40), st.sampled_from(VALUES),
        ),
    )  # fmt: skip
    often(campaign, run, 1500, x=pictures, method=st.sampled_from(("gradcam", "saliency")))


def test_any_array_as_a_photo(campaign):
    """Arrays of any rank, type, stride and value as a photo: 8-bit RGB or a refusal."""

    def run(x):
        array = x.to(torch.float32).numpy() if x.dtype == torch.bfloat16 else x.numpy()
        before = array.copy()
        photo = attempt(lambda: read_image(array))
        np.testing.assert_array_equal(array, before)
        if photo is not None:
            assert photo.dtype == np.uint8
            assert photo.ndim == 3
            assert photo.shape[-1] == 3
            assert not np.shares_memory(photo, array)

    often(campaign, run, 4000, x=tensors())


def test_any_map_over_a_photo(campaign):
    """Maps of any values and strides drawn over photos of any size: a picture or a refusal."""

    def run(values, height, width, signed):
        if values.is_complex() or values.dtype == torch.bfloat16:
            values = values.to(torch.float32)  # numpy knows no bfloat16
        photo, array = np.full((height, width, 3), 90, np.uint8), values.numpy()
        before = array.copy()
        picture = attempt(lambda: overlay(photo, array, signed=signed))
        assert (photo == 90).all()
        np.testing.assert_array_equal(array, before)
        if picture is not None:
            assert np.asarray(picture).shape == (height, width, 3)

    often(
        campaign, run, 1500, values=tensors(ranks=(2, 2)), height=st.integers(1, 50),
        width=st.integers(1, 50), signed=st.booleans(),
    )  # fmt: skip


def test_any_maps_as_a_result(campaign):
    """Results of any values: masks, boxes, sizes and files of them agree, or are refused."""

    def run(values, size, part):
        def use():
            maps = Heatmaps(
                values, method="gradcam", layer="c", target=(0,) * len(values),
                label=("a",) * len(values), score=torch.zeros(len(values)),
                geometry=(Geometry.identity(*size),) * len(values),
            )  # fmt: skip
            return maps.resize("photo"), maps.masks(part), maps.boxes(part)

        found = attempt(use)
        if found is not None:
            resized, masks, boxes = found
            assert tuple(resized.values.shape) == (len(values), *size)
            assert masks.values.shape[-2:] == size if hasattr(masks, "values") else True
            assert len(boxes) == len(values)

    sides = st.tuples(st.integers(1, 40), st.integers(1, 40))
    often(
        campaign, run, 1500, values=tensors(ranks=(3, 3), most=5), size=sides,
        part=st.floats(0, 1, exclude_min=True, exclude_max=True),
    )  # fmt: skip


def test_run_lengths_and_back(campaign):
    """Masks as run lengths and back are the same; runs of any numbers: a mask or a refusal."""

    def there_and_back(height, width, seed):
        mask = np.random.default_rng(seed).random((height, width)) < 0.5
        assert (rle_decode(rle_encode(mask), mask.shape) == mask).all()
        box = mask_box(mask)
        if box is not None:
            x0, y0, x1, y1 = map(int, box)
            assert mask[y0:y1, x0:x1].sum() == mask.sum()

    side = st.integers(1, 30)
    often(campaign, there_and_back, 1000, height=side, width=side, seed=st.integers(0, 99))

    def anything(counts, size):
        mask = attempt(lambda: rle_decode(counts, size))
        assert mask is None or mask.shape == size

    counts = st.one_of(st.text(max_size=30), st.lists(st.integers(), max_size=9), st.binary())
    often(campaign, anything, 4000, counts=counts, size=st.tuples(side, side))


def test_polygons_by_the_even_odd_rule(campaign):
    """Polygons of any points: equal to the even-odd rule counted pixel by pixel."""

    def run(points, height, width):
        mask = attempt(lambda: polygon_mask(points, (height, width)))
        if mask is None:
            return
        corners = np.asarray(points, float).reshape(-1, 2)
        ends = np.roll(corners, -1, 0)
        y, x = np.mgrid[:height, :width] + 0.5
        odd = np.zeros((height, width), bool)
        for (ax, ay), (bx, by) in zip(corners, ends, strict=True):
            if ay == by:
                continue
            crosses = (np.minimum(ay, by) <= y) & (y < np.maximum(ay, by))
            odd ^= crosses & (ax + (y - ay) * (bx - ax) / (by - ay) <= x)
        assert (mask == odd).all()

    number = st.one_of(st.integers(-5, 40).map(float), st.floats(-1e6, 1e6), st.floats())
    often(
        campaign, run, 2000, points=st.lists(number, max_size=16),
        height=st.integers(1, 20), width=st.integers(1, 20),
    )  # fmt: skip
