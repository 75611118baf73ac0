"""Statistics against loops over the full matrix, closed forms, and gates put in by hand."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from attnviz.attention import tap
from attnviz.attention.statistics import (
    COLUMNS,
    head_importance,
    head_table,
    outlier_tokens,
    site_statistics,
)
from attnviz.errors import AttentionUnavailable, DataError


class Attend(nn.Module):
    """Attention with given queries and keys, over a line of tokens."""

    def __init__(self, mask=None):
        super().__init__()
        self.mask = mask

    def forward(self, q, k, v):
        # handed in with five dimensions: with four they could be a picture
        return F.scaled_dot_product_attention(q[0], k[0], v[0], attn_mask=self.mask)


def site_of(q, k, mask=None):
    model = Attend(mask)
    with torch.no_grad(), tap(model) as taken:
        model(q[None], k[None], k[None])
    return taken.attention[0]


@pytest.fixture
def qk():
    return torch.randn(2, 2, 3, 7, 4, dtype=torch.float64)


def test_against_loops_over_the_full_matrix(qk):
    site = site_of(*qk)
    ids = torch.tensor([[5, 1, 5, 2, 1, 5, 9], [1, 2, 3, 4, 5, 6, 7]])
    a = (qk[0] @ qk[1].mT / 2).softmax(-1)
    for budget in (None, 1):  # all rows at once, and row by row
        got = site_statistics(site, token_ids=ids, top=3, budget=budget)
        for h in range(3):
            rows = [(b, i, a[b, h, i]) for b in range(2) for i in range(7)]
            entropy = [-sum(p * math.log(p) for p in r.tolist()) for _, _, r in rows]
            assert got.entropy[h] == pytest.approx(sum(entropy) / 14, rel=1e-12)
            hoyer = [(7**0.5 - 1 / float(r.norm())) / (7**0.5 - 1) for _, _, r in rows]
            assert got.hoyer[h] == pytest.approx(sum(hoyer) / 14, rel=1e-12)
            top = [sum(sorted(r.tolist())[-3:]) for _, _, r in rows]
            assert got.top_mass[h] == pytest.approx(sum(top) / 14, rel=1e-12)
            far = [sum(p * abs(i - j) for j, p in enumerate(r.tolist())) for _, i, r in rows]
            assert got.distance[h] == pytest.approx(sum(far) / 14, rel=1e-12)
            assert got.unit == "tokens"
            previous = [float(r[i - 1]) for _, i, r in rows if i]
            assert got.previous[h] == pytest.approx(sum(previous) / 12, rel=1e-12)
            # sample 0: 5 at 2 (after 0), 1 at 4 (after 1), 5 at 5 (after 0 and 2)
            twice = a[0, h, 2, 0] + a[0, h, 4, 1] + a[0, h, 5, 0] + a[0, h, 5, 2]
            assert got.duplicate[h] == pytest.approx(float(twice) / 3, rel=1e-12)
            sink = [float(a[b, h].mean(0).max()) for b in range(2)]
            assert got.sink_mass[h] == pytest.approx(sum(sink) / 2, rel=1e-12)
            assert got.sink_key[h] == a[0, h].mean(0).argmax()
            for g in range(3):
                cosine = [
                    float(F.cosine_similarity(a[b, h, i], a[b, g, i], 0))
                    for b in range(2) for i in range(7)
                ]  # fmt: skip
                assert got.similarity[h, g] == pytest.approx(sum(cosine) / 14, rel=1e-12)
        others = got.similarity[0, 1:].mean()
        assert got.redundancy[0] == pytest.approx(float(others), rel=1e-12)
        assert torch.isnan(got.class_share).all()


def test_uniform_and_one_hot_rows():
    zero = torch.zeros(1, 1, 9, 4, dtype=torch.float64)
    even = site_statistics(site_of(zero, zero))
    assert even.entropy.item() == pytest.approx(math.log(9))
    assert even.hoyer.item() == pytest.approx(0, abs=1e-12)
    assert even.top_mass.item() == pytest.approx(1)
    assert even.sink_mass.item() == pytest.approx(1 / 9)
    assert math.isnan(even.redundancy.item())
    # every query looks at key 2 alone
    key = torch.zeros(1, 1, 9, 4, dtype=torch.float64)
    key[0, 0, 2] = 1000
    sharp = site_statistics(site_of(torch.ones_like(key), key))
    assert sharp.entropy.item() == pytest.approx(0, abs=1e-12)
    assert sharp.hoyer.item() == pytest.approx(1)
    assert sharp.sink_mass.item() == pytest.approx(1)
    assert sharp.sink_key.item() == 2
    assert sharp.distance.item() == pytest.approx(sum(abs(i - 2) for i in range(9)) / 9)


def test_fully_masked_rows_and_single_keys():
    q = torch.randn(1, 1, 3, 4, dtype=torch.float64)
    mask = torch.ones(3, 3, dtype=torch.bool)
    mask[1] = False
    got = site_statistics(site_of(q, q, mask))
    a = (q @ q.mT / 2).softmax(-1)[0, 0]
    want = -(a * a.log()).sum(-1)[[0, 2]].mean()
    assert got.entropy.item() == pytest.approx(want.item())
    one = torch.randn(1, 1, 1, 4)
    single = site_statistics(site_of(one, one))
    assert single.entropy.item() == 0
    assert math.isnan(single.hoyer.item())
    assert math.isnan(single.previous.item())
    none = torch.zeros(1, 1, 2, 4)
    with pytest.raises(DataError, match="attends to anything"):
        site_statistics(site_of(none, none, torch.zeros(2, 2, dtype=torch.bool)))
    with pytest.raises(DataError, match="token_ids of shape"):
        site_statistics(site_of(q, q), token_ids=torch.zeros(1, 4))
    with pytest.raises(DataError, match="top=0"):
        site_statistics(site_of(q, q), top=0)


def vit():
    import timm

    return timm.create_model(
        "vit_tiny_patch16_224", img_size=(48, 64), depth=2, embed_dim=24, num_heads=3,
        num_classes=5,
    ).double()  # fmt: skip


def test_pixels_and_class_token_of_a_vit():
    model = vit()
    x = torch.randn(2, 3, 48, 64, dtype=torch.float64)
    table = head_table(model, x, importance=True, target=1)
    assert model.training
    model.eval()
    with torch.no_grad(), tap(model, keep="qk") as taken:
        model(x)
    for (index, got), site in zip(table.sites, taken.attention, strict=True):
        assert index == site.index
        a = site.weights()
        centres = [(16 * r + 8, 16 * c + 8) for r in range(3) for c in range(4)]
        for h in range(3):
            far, count = 0.0, 0
            for b in range(2):
                for i in range(12):
                    row = a[b, h, 1 + i, 1:]
                    row = row / row.sum()
                    far += sum(float(row[j]) * math.dist(centres[i], centres[j]) for j in range(12))
                    count += 1
            assert got.distance[h] == pytest.approx(far / count, rel=1e-9)
            assert got.class_share[h] == pytest.approx(float(a[:, h, 1:, 0].mean()), rel=1e-9)
        assert got.unit == "px"
    rows = table.rows()
    assert len(rows) == 6
    assert set(rows[0]) == set(COLUMNS)
    assert rows[0]["duplicate"] is None
    assert rows[4]["importance"] > 0


def test_importance_is_the_derivative_by_a_gate():
    model = vit().eval()
    x = torch.randn(3, 3, 48, 64, dtype=torch.float64)
    got = head_importance(model, x, target=2)
    assert sorted(got) == [0, 1]
    # the head's output is a slice of the projection's input: put a gate there
    for layer, block in enumerate(model.blocks):
        gate = torch.ones(3, 3, dtype=torch.float64, requires_grad=True)  # sample, head

        def scale(module, args, gate=gate):
            return (args[0] * gate.repeat_interleave(8, 1)[:, None],)

        handle = block.attn.proj.register_forward_pre_hook(scale)
        want = torch.autograd.grad(model(x)[:, 2].sum(), gate)[0].abs().mean(0)
        handle.remove()
        torch.testing.assert_close(got[layer], want, rtol=1e-9, atol=1e-12)
    assert all(p.grad is None for p in model.parameters())
    frozen = head_importance(model.requires_grad_(False), x, target=2)
    for layer, values in got.items():
        torch.testing.assert_close(frozen[layer], values)


def test_outlier_tokens():
    features = torch.randn(2, 30, 64)
    features[0, 7] *= 8
    features[0, 0] *= 50  # the class token does not count
    features[1, [3, 20]] *= 6
    found = outlier_tokens(features, prefix=1)
    assert found[0].nonzero().flatten().tolist() == [6]
    assert found[1].nonzero().flatten().tolist() == [2, 19]
    assert not outlier_tokens(torch.ones(1, 5, 4)).any()
    with pytest.raises(DataError, match="expected tokens"):
        outlier_tokens(torch.ones(1, 5, 4), prefix=5)


def test_no_attention_at_all():
    with pytest.raises(AttentionUnavailable):
        head_table(nn.Conv2d(3, 3, 1), torch.randn(1, 3, 4, 4))
