"""A mask has one place on a model's input, whoever asks."""

import numpy as np
import pytest
import torch

from attnviz.audit.pictures import PictureReader
from attnviz.benchmark import from_dataset
from attnviz.benchmark.subjects import object_mask
from attnviz.data import Dataset, Sample
from attnviz.data.masks import ArrayMask
from attnviz.data.prepared import Prepared, boxes_on_input, mask_on_input, mask_share
from attnviz.errors import DataError
from attnviz.geometry import Geometry
from attnviz.guidance import Examples
from attnviz.models import Preprocess


def disc(height=301, width=427):
    y, x = np.mgrid[:height, :width]
    return (y - 140) ** 2 + (x - 211) ** 2 < 77**2


def test_audit_benchmark_and_guidance_count_the_same_pixels():
    mask = disc()
    photo = np.zeros((*mask.shape, 3), np.uint8)
    sample = Sample("a", photo, label="boat", masks={"boat": ArrayMask(mask)})
    other = Sample("b", photo, label="other")
    data = Dataset((sample, other), ("boat", "other"))
    prepare = Preprocess(resize=64, crop=(56, 56))
    audited = PictureReader(data, "boat", "other", prepare=prepare).read(0).object_mask
    guided = Examples(data, prepare)[0][2]["mask"]
    (judged, _) = from_dataset(data)
    judged = Prepared.read(judged, prepare).mask(object_mask(judged))
    assert audited.sum() == guided.sum() == judged.sum() > 500
    assert torch.equal(audited, guided > 0)
    assert torch.equal(audited, judged)


def test_share_is_the_exact_area_at_any_scale():
    mask = disc(90, 120)
    geometry = Geometry((90, 120), (7, 11), (3.3, 5.7, 101.2, 80.9))
    fine = np.kron(mask, np.ones((20, 20)))  # every photo pixel as 20 x 20
    rows = np.linspace(5.7, 80.9, 8) * 20
    columns = np.linspace(3.3, 101.2, 12) * 20
    share = mask_share(mask, geometry)
    for i in range(7):
        for j in range(11):
            block = fine[
                round(rows[i]) : round(rows[i + 1]), round(columns[j]) : round(columns[j + 1])
            ]
            assert share[i, j] == pytest.approx(block.mean(), abs=0.02)


def test_a_thing_thinner_than_a_pixel_is_still_somewhere():
    mask = np.zeros((100, 100), bool)
    mask[:, 42] = True
    placed = mask_on_input(mask, Geometry((100, 100), (10, 10), (0.0, 0.0, 100.0, 100.0)))
    assert placed[:, 4].all()
    assert placed.sum() == 10


def test_a_mask_of_another_size_is_refused_and_a_box_beyond_the_crop_goes():
    geometry = Geometry((40, 80), (40, 40), (20.0, 0.0, 60.0, 40.0))
    with pytest.raises(DataError, match="a mask is"):
        mask_share(np.zeros((40, 40), bool), geometry)
    assert boxes_on_input([(0, 0, 19, 40), (10, 5, 30, 9)], geometry).tolist() == [[0, 5, 10, 9]]
