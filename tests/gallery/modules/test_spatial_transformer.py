import math

import pytest
import torch
from torch import nn

from attnviz.gallery.modules.spatial_transformer import (
    SpatialTransformer,
    STNClassifier,
    make_theta,
    quadrilateral,
    read_theta,
)

F64 = torch.float64


class Fixed(nn.Module):
    """A localisation network that answers with one theta."""

    def __init__(self, theta):
        super().__init__()
        self.theta = nn.Parameter(torch.as_tensor(theta, dtype=F64))

    def forward(self, image):
        return self.theta.flatten().expand(len(image), -1)


def picture(height=5, width=7, channels=2):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(1, channels, height, width, generator=generator, dtype=F64)


def sample_by_hand(image, theta, mode):
    """The paper's double sum over all input pixels, one output pixel at a time."""
    _, channels, height, width = image.shape
    out = torch.zeros_like(image)
    for i in range(height):
        for j in range(width):
            xt, yt = (2 * j + 1) / width - 1, (2 * i + 1) / height - 1
            xs, ys = (theta[r][0] * xt + theta[r][1] * yt + theta[r][2] for r in (0, 1))
            px, py = ((xs + 1) * width - 1) / 2, ((ys + 1) * height - 1) / 2
            for c in range(channels):
                for n in range(height):
                    for m in range(width):
                        if mode == "bilinear":
                            k = max(0, 1 - abs(px - m)) * max(0, 1 - abs(py - n))
                        else:
                            k = float(round(px) == m and round(py) == n)
                        out[0, c, i, j] += image[0, c, n, m] * k
    return out


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_sampling_is_the_papers_sum(mode):
    theta = [[0.63, -0.31, 0.17], [0.22, 0.81, -0.09]]
    image = picture()
    seen = SpatialTransformer(Fixed(theta), mode=mode)(image)
    assert torch.allclose(seen.warped, sample_by_hand(image, theta, mode), atol=1e-12)
    assert torch.allclose(seen.theta[0], torch.tensor(theta, dtype=F64), atol=0)


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_identity_gives_the_input_and_quarter_turn_is_rot90(mode):
    image = picture(6, 6)
    same = SpatialTransformer(Fixed([[1, 0, 0], [0, 1, 0]]), mode=mode)(image)
    assert torch.allclose(same.warped, image, atol=1e-12)
    turn = make_theta(torch.tensor([math.pi / 2], dtype=F64))
    turned = SpatialTransformer(Fixed(turn[0]), mode=mode)(image).warped
    # the window turns clockwise, so what is seen in it turns anticlockwise
    assert torch.allclose(turned, torch.rot90(image, 1, (2, 3)), atol=1e-9)


def test_only_bilinear_sampling_has_a_gradient():
    theta = torch.tensor([[0.63, -0.31, 0.17], [0.22, 0.81, -0.09]], dtype=F64)
    image = picture()
    weight = torch.rand_like(image)

    def objective(value, mode):
        stn = SpatialTransformer(Fixed(value), mode=mode)
        score = (stn(image).warped * weight).sum()
        return score, stn.localisation.theta

    score, leaf = objective(theta, "bilinear")
    (gradient,) = torch.autograd.grad(score, leaf)
    numeric = torch.zeros_like(theta)
    for i in range(2):
        for j in range(3):
            step = torch.zeros_like(theta)
            step[i, j] = 1e-6
            up, down = (
                objective(theta + step, "bilinear")[0],
                objective(theta - step, "bilinear")[0],
            )
            numeric[i, j] = (up - down) / 2e-6
    assert torch.allclose(gradient, numeric, atol=1e-6)
    assert gradient.abs().min() > 1e-3
    score, leaf = objective(theta, "nearest")
    assert torch.autograd.grad(score, leaf)[0].abs().max() == 0


def test_read_theta_inverts_make_theta_and_hand_values():
    generator = torch.Generator().manual_seed(1)
    count = 50
    rotation = (torch.rand(count, generator=generator, dtype=F64) - 0.5) * 6
    scale = 0.3 + torch.rand(count, 2, generator=generator, dtype=F64)
    shear = torch.randn(count, generator=generator, dtype=F64)
    shift = torch.randn(count, 2, generator=generator, dtype=F64)
    theta = make_theta(rotation, translation=shift, scale=scale, shear=shear)
    parts = read_theta(theta)
    for got, expected in zip(parts, (shift, scale, rotation, shear), strict=True):
        assert torch.allclose(got, expected, atol=1e-10)
    # rotation by 90 degrees with half width: A = [[0, -1], [0.5, 0]]
    hand = read_theta(torch.tensor([[[0.0, -1.0, 0.2], [0.5, 0.0, -0.4]]], dtype=F64))
    assert hand.rotation.item() == pytest.approx(math.pi / 2)
    assert hand.scale[0].tolist() == pytest.approx([0.5, 1.0])
    assert hand.translation[0].tolist() == [0.2, -0.4]


def test_read_theta_in_pixels_measures_the_angle_seen():
    # a true 30 degree turn on a 40 x 20 (H x W) image is a shear in normalised units
    angle, half = math.radians(30), torch.tensor([10.0, 20.0], dtype=F64)
    turn = make_theta(torch.tensor([angle], dtype=F64))[:, :, :2]
    matrix = turn * half[None, None, :] / half[None, :, None]
    theta = torch.cat((matrix, torch.tensor([[[0.5], [0.25]]], dtype=F64)), 2)
    seen = read_theta(theta, size=(40, 20))
    assert seen.rotation.item() == pytest.approx(angle)
    assert seen.shear.item() == pytest.approx(0, abs=1e-12)
    assert seen.translation[0].tolist() == pytest.approx([5.0, 5.0])
    assert read_theta(theta).rotation.item() != pytest.approx(angle, abs=0.1)


def test_quadrilateral_is_where_the_grid_reaches():
    theta = make_theta(torch.tensor([0.4], dtype=F64), scale=torch.tensor([[0.5, 0.7]], dtype=F64))
    corners = quadrilateral(theta)[0]
    for corner, (x, y) in zip(corners, [(-1, -1), (1, -1), (1, 1), (-1, 1)], strict=True):
        assert torch.allclose(corner, theta[0] @ torch.tensor([x, y, 1.0], dtype=F64))
    grid = SpatialTransformer(Fixed(theta[0]), size=(200, 200))(picture()).grid[0]
    assert torch.allclose(grid[0, 0], corners[0], atol=0.02)
    assert torch.allclose(grid[-1, -1], corners[2], atol=0.02)


def test_untrained_classifier_looks_at_the_whole_image():
    image = torch.rand(3, 1, 24, 24)
    out = STNClassifier()(image)
    assert torch.allclose(out.warped, image, atol=1e-5)
    assert out.logits.shape == (3, 10)


def test_errors_say_what_was_got():
    with pytest.raises(ValueError, match=r"\(B, 2, 3\), got \(2, 3\)"):
        read_theta(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="got 'cubic'"):
        SpatialTransformer(nn.Identity(), mode="cubic")
