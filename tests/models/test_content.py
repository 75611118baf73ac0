"""Preprocessing whose crop depends on what the photo shows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

from attnviz import explain
from attnviz.errors import AttnvizWarning
from attnviz.models import LoadedModel, Preprocess, resolve_preprocess


def _retina(left: int, top: int, right: int, bottom: int) -> np.ndarray:
    """A bright disc in a black photo of 120 x 160."""
    rng = np.random.default_rng(0)
    photo = np.zeros((120, 160, 3), np.uint8)
    y, x = np.mgrid[0:120, 0:160] + 0.5
    disc = np.hypot(
        (2 * y - top - bottom) / (bottom - top), (2 * x - left - right) / (right - left)
    )
    inside = disc < 1
    photo[inside] = np.array([150, 90, 60]) + rng.integers(-20, 20, (int(inside.sum()), 3))
    return photo


def _tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 255


def _without_border(image: Image.Image) -> Tensor:
    rows, columns = np.nonzero(np.asarray(image).max(2) > 10)  # fails on a black picture
    box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    return (_tensor(image.crop(box).resize((64, 64))) - 0.4) / 0.2


@pytest.mark.parametrize("box", [(20, 10, 120, 100), (50, 30, 140, 90), (0, 0, 160, 120)])
def test_a_crop_to_the_content_is_measured_on_the_photo(box: tuple[int, ...]) -> None:
    tensor, geometry = resolve_preprocess(_without_border)(_retina(*box))
    assert geometry.crop == pytest.approx(box, abs=1.5)
    assert torch.equal(tensor, _without_border(Image.fromarray(_retina(*box))))


def test_a_lesion_is_reported_where_it_is() -> None:
    photo = _retina(20, 10, 120, 100)
    photo[52:64, 60:72] = (255, 255, 255)
    model = nn.Sequential(nn.AvgPool2d(4), nn.Conv2d(3, 1, 1), nn.ReLU(),
                          nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 2))  # fmt: skip
    with torch.no_grad():
        model[1].weight.fill_(1.0)
        model[1].bias.fill_(-6.0)  # only the lesion is so bright
        model[5].weight.copy_(torch.tensor([[-1.0], [1.0]]))
    maps = explain(model.eval(), photo, preprocess=_without_border, target=1, layer="2")
    (found,) = maps.boxes(0.5)
    assert found[0] == pytest.approx((60, 52, 72, 64), abs=5)


def _by_contrast(image: Image.Image) -> Tensor:
    """The half with more contrast, with its histogram made even: not affine in brightness."""
    grey = np.asarray(image.convert("L"), float)
    half = image.width // 2
    right = grey[:, half:].std() > grey[:, :half].std()
    image = image.crop((half, 0, 2 * half, image.height) if right else (0, 0, half, image.height))
    return _tensor(ImageOps.equalize(image).resize((64, 64)))


def test_what_cannot_be_measured_is_warned_of() -> None:
    rng = np.random.default_rng(1)
    photo = np.full((120, 160, 3), 90, np.uint8)
    photo[:, 80:] = np.asarray(
        Image.fromarray(rng.integers(0, 255, (9, 9, 3), dtype=np.uint8)).resize((80, 120))
    )
    photo[:, :80] += rng.integers(0, 9, (120, 80, 3), dtype=np.uint8)
    prepare = resolve_preprocess(_by_contrast)
    with pytest.warns(AttnvizWarning, match="depends on the content|is not known"):
        prepare(photo)


def test_a_loaded_model_takes_a_compose_and_a_crop_may_be_one_number() -> None:
    from torchvision.transforms import CenterCrop, Compose, Resize, ToTensor

    compose = Compose([Resize(40), CenterCrop(32), ToTensor()])
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    loaded = LoadedModel(model.eval(), "mine", preprocess=compose)
    photo = _retina(20, 10, 120, 100)
    maps = explain(loaded, photo, target=1)
    assert torch.equal(maps.score, model(compose(Image.fromarray(photo))[None])[:, 1].detach())
    assert maps.geometry[0].crop == Preprocess(resize=40, crop=32).geometry(120, 160).crop
    assert Preprocess(crop=128).crop == (128, 128)
    with pytest.raises(ValueError, match="sizes must be positive"):
        Preprocess(crop=0)
