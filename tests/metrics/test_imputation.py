from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from attnviz.errors import MetricError
from attnviz.metrics import impute


def _direct(x: torch.Tensor, removed: torch.Tensor) -> torch.Tensor:
    """The equations of the paper, written out pixel by pixel and solved directly."""
    scipy_sparse = pytest.importorskip("scipy.sparse")
    from scipy.sparse.linalg import spsolve

    channels, height, width = x.shape
    where = {p: i for i, p in enumerate(map(tuple, removed.nonzero().tolist()))}
    system = scipy_sparse.lil_matrix((len(where), len(where)))
    right = np.zeros((len(where), channels))
    for (r, c), i in where.items():
        total = 0.0
        for dr, dc in itertools.product((-1, 0, 1), repeat=2):
            p = (r + dr, c + dc)
            if (dr, dc) == (0, 0) or not (0 <= p[0] < height and 0 <= p[1] < width):
                continue
            weight = 1 / 6 if dr == 0 or dc == 0 else 1 / 12
            total += weight
            if p in where:
                system[i, where[p]] = -weight
            else:
                right[i] += weight * x[:, p[0], p[1]].double().numpy()
        system[i, i] = total
    solved = spsolve(system.tocsc(), right).reshape(len(where), channels)
    filled = x.double().clone()
    for p, i in where.items():
        filled[:, p[0], p[1]] = torch.from_numpy(solved[i])
    return filled


def _smooth(size: tuple[int, int], count: int, seed: int = 0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    blobs = torch.rand(1, 1, 4, 4, generator=draw)
    values = torch.nn.functional.interpolate(blobs, size=size, mode="bicubic")[0, 0].flatten()
    removed = torch.zeros(size[0] * size[1], dtype=torch.bool)
    removed[values.argsort(descending=True)[:count]] = True
    return removed.view(size)


@pytest.mark.parametrize("size", [(24, 24), (17, 30), (9, 41)])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_solves_the_published_equations(size, share):
    count = round(share * size[0] * size[1])
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    removed = torch.stack([_smooth(size, count), torch.rand(size) < share])
    found = impute(x, removed, tolerance=1e-12)
    for row, mask, filled in zip(x, removed, found, strict=True):
        torch.testing.assert_close(filled, _direct(row, mask), rtol=0, atol=1e-8)


def test_default_tolerance_errs_less_than_the_noise():
    x = torch.cumsum(torch.randn(1, 3, 96, 96), -1) / 4  # smooth along rows, about unit deviation
    x = x / x.std()
    for share in (0.2, 0.5, 0.8):
        removed = _smooth((96, 96), round(share * 96 * 96))[None]
        error = impute(x, removed) - impute(x.double(), removed, tolerance=1e-10)
        assert error.double().square().mean().sqrt() < 0.01


@pytest.mark.peer("pytorch_grad_cam")
def test_agrees_with_pytorch_grad_cam():
    from pytorch_grad_cam.metrics import road

    x = torch.randn(3, 20, 20)
    removed = _smooth((20, 20), 150)
    theirs = road.NoisyLinearImputer(noise=0.0)(x, (~removed).float())
    ours = impute(x[None], removed[None], tolerance=1e-6)[0]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


def test_known_pixels_stay_in_every_bit_and_the_caller_keeps_his():
    x = torch.randn(2, 3, 16, 16)
    removed = torch.rand(2, 16, 16) < 0.5
    copies = x.clone(), removed.clone()
    noise = torch.randn_like(x)
    found = impute(x, removed, noise=noise)
    assert torch.equal(found.movedim(1, -1)[~removed], x.movedim(1, -1)[~removed])
    assert torch.equal(x, copies[0])
    assert torch.equal(removed, copies[1])
    plain = impute(x, removed)
    torch.testing.assert_close(
        (found - plain).movedim(1, -1)[removed], noise.movedim(1, -1)[removed]
    )


def test_constant_and_linear_images_are_reproduced():
    flat = torch.full((1, 2, 12, 12), 3.5, dtype=torch.float64)
    removed = _smooth((12, 12), 90)[None]
    torch.testing.assert_close(impute(flat, removed, tolerance=1e-12), flat)
    # a ramp is harmonic: inside a hole away from the edge it comes back exactly
    ramp = torch.arange(12.0, dtype=torch.float64).expand(1, 1, 12, 12).contiguous()
    hole = torch.zeros(1, 12, 12, dtype=torch.bool)
    hole[:, 2:10, 2:10] = True
    torch.testing.assert_close(impute(ramp, hole, tolerance=1e-12), ramp)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (2, 2), (3, 5)])
def test_any_size_nothing_and_everything_removed(size):
    x = torch.randn(1, 3, *size, dtype=torch.float64)
    nothing = torch.zeros(1, *size, dtype=torch.bool)
    assert torch.equal(impute(x, nothing), x)
    mean = x.mean((2, 3), keepdim=True).expand_as(x)
    torch.testing.assert_close(impute(x, ~nothing), mean)
    if x[0, 0].numel() > 1:
        one_left = ~nothing
        one_left[0, 0, 0] = False
        expected = x[:, :, :1, :1].expand_as(x)
        torch.testing.assert_close(impute(x, one_left, tolerance=1e-12), expected)


def test_rows_do_not_influence_each_other():
    x = torch.randn(6, 3, 24, 24)
    removed = torch.rand(6, 24, 24) < torch.linspace(0.05, 0.95, 6)[:, None, None]
    together = impute(x, removed)
    for i in range(6):
        assert torch.equal(impute(x[i : i + 1], removed[i : i + 1])[0], together[i])


def test_batched_solver_agrees_with_one_at_a_time():
    """The path of a GPU, where all images share the rounds, run on the CPU."""
    from attnviz.metrics.imputation import _solve

    x = torch.randn(5, 3, 24, 24, dtype=torch.float64)
    removed = torch.rand(5, 24, 24) < torch.tensor([0.0, 0.1, 0.6, 0.95, 1.0])[:, None, None]
    together = torch.where(removed[:, None], _solve(x, removed, 1e-12, 100), x)
    torch.testing.assert_close(together, impute(x, removed, tolerance=1e-12), rtol=0, atol=1e-9)


def test_half_precision_and_errors():
    x = torch.randn(1, 3, 16, 16)
    removed = torch.rand(1, 16, 16) < 0.5
    half = impute(x.bfloat16(), removed)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), impute(x, removed), rtol=0.02, atol=0.02)
    with pytest.raises(MetricError, match=r"expected bool \(1, 16, 16\)"):
        impute(x, removed[:, :8])
    with pytest.raises(MetricError, match="expected bool"):
        impute(x, removed.float())
