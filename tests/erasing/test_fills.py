"""Fills: exact outside the region, nothing of the object inside."""

import pytest
import torch

from attnviz.erasing import FILLS, erase
from attnviz.errors import DataError, MethodError


@pytest.fixture
def scene():
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, 32, 32, generator=generator) * 0.1 + 1
    masks = torch.zeros(2, 32, 32)
    masks[:, 8:20, 10:22] = 1
    images[:, :, 8:20, 10:22] = 5.0  # the object
    return images, masks


@pytest.mark.parametrize("fill", FILLS.names())
def test_outside_stays_and_the_object_goes(fill, scene):
    images, masks = scene
    before = images.clone()
    erased = erase(images, masks, fill=fill, generator=torch.Generator().manual_seed(1))
    assert torch.equal(images, before)
    keep = (masks == 0)[:, None].expand_as(images)
    assert torch.equal(erased[keep], images[keep])
    inside = erased[~keep]
    assert inside.max() < 4.0 or fill == "noise"  # whose deviation is the whole image's
    if fill in ("mean", "blur", "inpaint"):  # the surroundings are 1 +- .1
        assert (inside.mean() - 1).abs() < 0.05, inside.mean()
        other = images.clone()
        other[~keep] = -77.0  # a different object leaves no other trace, up to 8-bit rounding
        again = erase(other, masks, fill=fill)
        assert (again[~keep] - inside).abs().max() < (0.5 if fill == "inpaint" else 1e-5)


def test_blur_follows_its_surroundings():
    """Left of the region dark, right of it bright: the fill goes from one to the other."""
    images = torch.zeros(1, 1, 16, 16)
    images[..., 8:] = 1
    masks = torch.zeros(1, 16, 16)
    masks[:, 4:12, 4:12] = 1
    filled = erase(images, masks, fill="blur")[0, 0, 8]
    assert filled[4] < 0.2
    assert filled[11] > 0.8
    assert (filled[4:12].diff() > -0.05).all()


def test_soft_masks_mix_and_carry_gradients():
    images = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    masks = torch.rand(1, 8, 8, dtype=torch.float64, requires_grad=True)
    erased = erase(images, masks, fill="zero")
    torch.testing.assert_close(erased, images * (1 - masks[:, None]))
    (gradient,) = torch.autograd.grad(erased.sum(), masks)
    torch.testing.assert_close(gradient, -images.sum(1))


def test_everything_erased_is_finite():
    images = torch.randn(1, 3, 16, 16)
    for fill in FILLS.names():
        assert torch.isfinite(erase(images, torch.ones(1, 16, 16), fill=fill)).all(), fill
    mean = erase(images, torch.ones(1, 16, 16), fill="mean")
    torch.testing.assert_close(mean, images.mean((2, 3), keepdim=True).expand_as(images))


def test_noise_has_the_images_moments():
    images = torch.randn(1, 3, 64, 64) * torch.tensor([0.5, 1, 2])[:, None, None] + 3
    noisy = erase(images, torch.ones(1, 64, 64), fill="noise")
    torch.testing.assert_close(noisy.mean((2, 3)), images.mean((2, 3)), atol=0.15, rtol=0)
    torch.testing.assert_close(noisy.std((2, 3)), images.std((2, 3)), atol=0, rtol=0.05)


def test_refusals():
    with pytest.raises(DataError, match=r"\(1, 3, 8, 8\) and \(1, 1, 4, 4\)"):
        erase(torch.zeros(1, 3, 8, 8), torch.zeros(1, 4, 4))
    with pytest.raises(MethodError, match="did you mean 'blur'"):
        erase(torch.zeros(1, 3, 8, 8), torch.zeros(1, 8, 8), fill="blurr")
