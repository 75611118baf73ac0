import pytest
import torch
from study.module_recipes import ram_loss
from torch import nn

from attnviz.gallery.modules.glimpses import (
    RecurrentAttention,
    glimpse,
    normal_log_prob,
    reinforce,
)

F64 = torch.float64


def by_slicing(image, row, column, size, scales):
    """Patches by indexing alone, for a centre between pixels (row, column are its upper left)."""
    _, channels, height, width = image.shape
    out = []
    for scale in range(scales):
        side, step = size * 2**scale, 2**scale
        patch = torch.zeros(1, channels, size, size, dtype=image.dtype)
        for i in range(side):
            for j in range(side):
                r, c = row - side // 2 + i, column - side // 2 + j
                if 0 <= r < height and 0 <= c < width:
                    patch[0, :, i // step, j // step] += image[0, :, r, c] / step**2
        out.append(patch)
    return torch.cat(out, 1)


@pytest.mark.parametrize(("row", "column"), [(6, 9), (0, 0), (12, 20)])
def test_glimpse_is_slices_averaged(row, column):
    image = torch.rand(1, 2, 12, 20, dtype=F64, generator=torch.Generator().manual_seed(0))
    location = torch.tensor([[2 * column / 20 - 1, 2 * row / 12 - 1]], dtype=F64)
    got = glimpse(image, location, size=4, scales=3)
    assert torch.allclose(got, by_slicing(image, row, column, 4, 3), atol=1e-12)


def test_glimpse_between_pixels_is_torchs_bilinear_sampling():
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(4, 2, 12, 20, dtype=F64, generator=generator)
    location = (torch.rand(4, 2, dtype=F64, generator=generator) * 2 - 1).requires_grad_()
    theta = torch.zeros(4, 2, 3, dtype=F64)
    theta[:, 0, 0], theta[:, 1, 1] = 6 / 20, 6 / 12
    theta = torch.cat((theta[:, :, :2], location[:, :, None]), 2)
    grid = nn.functional.affine_grid(theta, [4, 2, 6, 6], align_corners=False)
    expected = nn.functional.grid_sample(image, grid, align_corners=False)
    got = glimpse(image, location, size=6)
    assert torch.allclose(got, expected, atol=1e-12)
    weight = torch.rand(got.shape, dtype=F64, generator=generator)
    slopes = [torch.autograd.grad((x * weight).sum(), location)[0] for x in (got, expected)]
    assert torch.allclose(*slopes, atol=1e-10)


def test_log_prob_is_torchs_normal():
    value, mean = torch.randn(5, 2, dtype=F64), torch.randn(5, 2, dtype=F64)
    expected = torch.distributions.Normal(mean, 0.3).log_prob(value).sum(-1)
    assert torch.allclose(normal_log_prob(value, mean, 0.3), expected, atol=1e-12)


def test_reinforce_is_an_unbiased_gradient():
    # E[R] with R = -|l - a|^2, l ~ N(m, s^2 I), is -|m - a|^2 - 2 s^2: gradient -2 (m - a)
    generator = torch.Generator().manual_seed(0)
    mean = torch.tensor([0.3, -0.2], dtype=F64, requires_grad=True)
    goal, std, count = torch.tensor([0.5, 0.4], dtype=F64), 0.15, 200_000
    drawn = (mean + std * torch.randn(count, 2, generator=generator, dtype=F64)).detach()
    reward = -(drawn - goal).square().sum(1)
    expected = -2 * (mean.detach() - goal)
    spread = {}
    for name, level in (("none", 0.0), ("mean", reward.mean().item())):
        log_prob = normal_log_prob(drawn, mean, std)[:, None]
        baseline = torch.full((count, 1), level, dtype=F64)
        surrogate = reinforce(log_prob, reward[:, None], baseline)
        (gradient,) = torch.autograd.grad(-surrogate, mean)
        each = (drawn - mean.detach()) / std**2 * (reward - level)[:, None]
        error = each.std(0) / count**0.5
        assert ((gradient - expected).abs() < 4 * error).all()
        assert torch.allclose(gradient, each.mean(0), atol=1e-10)
        spread[name] = each.std(0).mean()
    # why there is a baseline: same mean, smaller variance
    assert spread["mean"] < 0.6 * spread["none"]


def test_recurrence_by_hand():
    torch.manual_seed(0)
    model = RecurrentAttention(glimpses=3, hidden=16).double()
    image = torch.rand(2, 1, 40, 40, dtype=F64)
    path = model(image)
    cell, state, location = model.cell, torch.zeros(2, 16, dtype=F64), torch.zeros(2, 2, dtype=F64)
    for step in range(3):
        assert torch.allclose(path.locations[:, step], location, atol=1e-12)
        patch = glimpse(image, location, size=8, scales=3).reshape(2, -1)
        seen = (patch @ model.what.weight.T + model.what.bias) * (
            1 / (1 + torch.exp(-(location @ model.where.weight.T + model.where.bias)))
        )
        x = (seen.clamp_min(0) @ model.merge.weight.T + model.merge.bias).clamp_min(0)
        gi = (x @ cell.weight_ih.T + cell.bias_ih).chunk(3, 1)
        gh = (state @ cell.weight_hh.T + cell.bias_hh).chunk(3, 1)
        r, z = ((gi[k] + gh[k]).sigmoid() for k in (0, 1))
        state = (1 - z) * torch.tanh(gi[2] + r * gh[2]) + z * state
        location = torch.tanh(state @ model.locate.weight.T + model.locate.bias)
    assert torch.allclose(path.logits, state @ model.head.weight.T + model.head.bias, atol=1e-10)
    again = model(image)
    assert torch.equal(again.locations, path.locations)


def test_the_place_learns_by_reinforce_alone():
    torch.manual_seed(0)
    model = RecurrentAttention(glimpses=3, hidden=16)
    path = model(torch.rand(8, 1, 40, 40), explore=True, generator=torch.Generator().manual_seed(1))
    assert not path.locations.requires_grad
    loss = nn.functional.cross_entropy(path.logits, torch.zeros(8, dtype=torch.long))
    grads = torch.autograd.grad(loss, list(model.locate.parameters()), allow_unused=True)
    assert grads == (None, None)
    path = model(torch.rand(8, 1, 40, 40), explore=True, generator=torch.Generator().manual_seed(1))
    grads = torch.autograd.grad(
        ram_loss(path, path.logits.argmax(1)), list(model.locate.parameters())
    )
    assert all(g.abs().max() > 0 for g in grads)
