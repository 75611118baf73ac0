"""Rollout of pyramids with merged keys or windows, against whole matrices of timm's own weights."""

import math
from types import SimpleNamespace

import pytest
import torch

from attnviz import explain
from attnviz.errors import MethodError
from attnviz.methods.attention.steps import tokens_of

timm = pytest.importorskip("timm")


def pvt():
    return timm.models.pvt_v2.PyramidVisionTransformerV2(
        depths=(1, 2, 1, 2), embed_dims=(8, 16, 16, 32), num_heads=(1, 2, 2, 4),
        sr_ratios=(8, 4, 2, 1), num_classes=3,
    )  # fmt: skip


def gcvit():
    return timm.models.gcvit.GlobalContextVit(
        img_size=(64, 64), window_ratio=(16, 16, 16, 32), depths=(1, 2, 1, 2),
        num_heads=(1, 2, 2, 4), embed_dim=8, num_classes=3,
    )  # fmt: skip


def build(make):
    torch.manual_seed(0)
    model = make().double().eval()
    for name, weight in model.named_parameters():
        if "attn" in name and weight.ndim > 1:
            weight.data.normal_(0, 0.7)  # attention that differs from place to place
    return model


def softmax_weights(model, x):
    """The mean over heads of every layer's softmax, (B * windows, Q, K), written out."""
    kept = []

    def hook(module, inputs, output):
        kept.append(output.mean(1))

    for part in model.modules():
        if hasattr(part, "attn_drop"):
            part.fused_attn = False
            part.attn_drop.register_forward_hook(hook)
    with torch.no_grad():
        model(x)
    return kept


def spread(coarse, fine):
    """(coarse cells, fine cells): each coarse cell in equal parts on the fine ones under it."""
    matrix = torch.zeros(math.prod(coarse), math.prod(fine), dtype=torch.float64)
    step = fine[0] // coarse[0]
    for y in range(fine[0]):
        for x in range(fine[1]):
            matrix[(y // step) * coarse[1] + x // step, y * fine[1] + x] = 1 / step**2
    return matrix


def whole(weights, grid, batch, keys):
    """A layer's (B, cells, cells) over all cells of its picture."""
    cells = math.prod(grid)
    if weights.shape[1] == cells:
        return weights @ spread(keys or grid, grid)
    side = math.isqrt(weights.shape[1])
    matrix = torch.zeros(batch, cells, cells, dtype=torch.float64)
    number = torch.arange(cells).view(grid)
    windows = [
        number[top : top + side, left : left + side].flatten()
        for top in range(0, grid[0], side)
        for left in range(0, grid[1], side)
    ]
    for one, part in enumerate(weights):
        at = windows[one % len(windows)]
        matrix[one // len(windows), at[:, None], at] = part
    return matrix


def by_hand(weights, grids, batch, keys=None):
    row, have = torch.full((batch, math.prod(grids[-1])), 1 / math.prod(grids[-1])), grids[-1]
    row = row.double()
    for one, grid in zip(reversed(weights), reversed(grids), strict=True):
        if grid != have:
            row, have = row @ spread(have, grid), grid
        row = 0.5 * row + 0.5 * (row[:, None] @ whole(one, grid, batch, keys))[:, 0]
    return row.unflatten(1, grids[0])


@pytest.mark.parametrize(
    ("make", "size", "keys"), [(pvt, (64, 96), (2, 3)), (gcvit, (64, 64), None)]
)
def test_rollout_equals_whole_matrices(make, size, keys):
    model = build(make)
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    maps = explain(model, x, method="rollout", row="mean")
    stages = [(size[0] // s, size[1] // s) for s in (4, 8, 8, 16, 32, 32)]
    hand = by_hand(softmax_weights(model, x), stages, 2, keys)
    assert hand.std() > 1e-2 * hand.mean()
    torch.testing.assert_close(maps.values, hand, rtol=0, atol=1e-6)


def test_what_a_layer_with_merged_keys_receives():
    model = build(pvt)
    x = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    name = "stages.1.blocks.0.attn"
    maps = explain(model, x, method="attention_received", layer=name)
    weights = softmax_weights(model, x)[1]
    assert weights.shape == (1, 96, 6)
    hand = (weights.sum(1) @ spread((2, 3), (8, 12))).unflatten(1, (8, 12))
    torch.testing.assert_close(maps.values, hand, rtol=0, atol=1e-6)


def test_relevance_weighted_by_gradients_keeps_every_query():
    model = build(pvt)
    x = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    for method in ("generic_relevance", "gradient_rollout"):
        maps = explain(model, x, method=method, target=1)
        assert maps.values.shape == (1, 16, 24)
        lower = maps.values[:, 8:].sum() / maps.values.sum()
        assert 0.2 < lower < 0.8  # the first queries alone, a strip above, were counted


def test_keys_that_are_no_squares_of_patches_are_refused():
    site = SimpleNamespace(name="attn", kind="self", queries=96, keys=8, prefix=0, grid=(2, 4))
    with pytest.raises(MethodError, match="96 queries and 8 keys"):
        tokens_of(site)
