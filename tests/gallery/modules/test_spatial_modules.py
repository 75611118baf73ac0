import itertools
import warnings

import pytest
import torch
import torch.nn.functional as F

from attnviz.gallery.modules.attention_gate import AttentionGate, AttentionUNet
from attnviz.gallery.modules.criss_cross import CrissCrossAttention, dense_attention
from attnviz.gallery.modules.expectation_maximization import EMAttention, em_step
from attnviz.gallery.modules.matrix_decomposition import (
    Hamburger,
    factorise,
    update_codes,
    update_dictionary,
)
from attnviz.gallery.modules.stand_alone import StandAloneSelfAttention

F64 = torch.float64


def maps(channels=8, height=4, width=5, batch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, channels, height, width, generator=generator, dtype=F64)


def conv1x1(layer, x):
    out = torch.einsum("oc,bchw->bohw", layer.weight[:, :, 0, 0], x)
    return out if layer.bias is None else out + layer.bias[None, :, None, None]


# stand-alone self-attention


def test_stand_alone_is_the_loop_over_neighbours():
    torch.manual_seed(0)
    module = StandAloneSelfAttention(8, 12, window=3, heads=2).double()
    x = maps()
    out = module(x)
    q, k, v = (conv1x1(c, x).view(2, 2, 6, 4, 5) for c in (module.query, module.key, module.value))
    for b in range(2):
        for h in range(2):
            for i in range(4):
                for j in range(5):
                    scores, values, offsets = [], [], []
                    for a in (-1, 0, 1):
                        for c in (-1, 0, 1):
                            if not (0 <= i + a < 4 and 0 <= j + c < 5):
                                continue
                            r = torch.cat((module.row[h, :, a + 1], module.column[h, :, c + 1]))
                            key = k[b, h, :, i + a, j + c] + r
                            scores.append(q[b, h, :, i, j] @ key)
                            values.append(v[b, h, :, i + a, j + c])
                            offsets.append((a + 1, c + 1))
                    weights = torch.stack(scores).softmax(0)
                    for w, (a, c) in zip(weights, offsets, strict=True):
                        assert torch.isclose(out.attention[b, h, i, j, a, c], w, atol=1e-10)
                    y = weights @ torch.stack(values)
                    assert torch.allclose(out.output[b, 6 * h : 6 * h + 6, i, j], y, atol=1e-10)
    assert torch.allclose(out.attention.sum((-1, -2)), torch.ones(2, 2, 4, 5, dtype=F64))


def test_stand_alone_outside_the_image_gets_nothing_and_1x1_is_the_value():
    torch.manual_seed(0)
    out = StandAloneSelfAttention(8, 8, window=3, heads=2).double()(maps())
    assert out.attention[:, :, 0, :, 0].abs().max() == 0
    one = StandAloneSelfAttention(8, 8, window=1, heads=2).double()
    assert torch.allclose(one(maps()).output, conv1x1(one.value, maps()), atol=1e-12)
    with pytest.raises(ValueError, match="window=4"):
        StandAloneSelfAttention(8, 8, window=4)


# attention gate


def test_attention_gate_is_the_formula_at_equal_resolution():
    torch.manual_seed(0)
    gate = AttentionGate(6, 10, 4, stride=1).double()
    x, g = maps(6, 8, 8), maps(10, 8, 8, seed=1)
    out = gate(x, g)
    hidden = (conv1x1(gate.x, x) + conv1x1(gate.g, g)).clamp_min(0)
    alpha = 1 / (1 + torch.exp(-conv1x1(gate.psi, hidden)))
    assert torch.allclose(out.gate, alpha, atol=1e-12)
    assert torch.allclose(out.output, alpha * x, atol=1e-12)


def test_attention_gate_interpolates_between_coarse_gates():
    torch.manual_seed(0)
    gate = AttentionGate(6, 10, 4, stride=2).double()
    x, g = maps(6, 8, 8), maps(10, 4, 4, seed=1)
    blocks = x.unfold(2, 2, 2).unfold(3, 2, 2)
    strided = torch.einsum("ocyz,ncijyz->noij", gate.x.weight, blocks)
    hidden = (strided + conv1x1(gate.g, g)).clamp_min(0)
    coarse = 1 / (1 + torch.exp(-conv1x1(gate.psi, hidden)))
    line = torch.zeros(8, 4, dtype=F64)  # bilinear by 2: 3/4 and 1/4, the border repeated
    for i in range(8):
        near, far = i // 2, i // 2 + (1 if i % 2 else -1)
        line[i, near] += 0.75
        line[i, min(max(far, 0), 3)] += 0.25
    out = gate(x, g)
    expected = torch.einsum("ia,jz,ncaz->ncij", line, line, coarse)
    assert torch.allclose(out.gate, expected, atol=1e-10)
    assert torch.allclose(out.output, expected * x, atol=1e-10)


def test_a_closed_gate_blocks_the_skip():
    torch.manual_seed(0)
    net = AttentionUNet().double()
    with torch.no_grad():
        net.gate.psi.bias.fill_(-1e4)
    out = net(maps(3, 16, 16))
    assert out.gate.max() == 0
    skip = torch.autograd.grad(out.logits.sum(), net.out.weight)[0][:, :16]
    assert skip.abs().max() == 0


# criss-cross


def test_criss_cross_is_attention_masked_to_the_cross():
    torch.manual_seed(0)
    module = CrissCrossAttention(8, hidden=4, passes=2).double()
    with torch.no_grad():
        module.gamma.fill_(0.7)
    x = maps()
    out = module(x)
    i, j = torch.meshgrid(torch.arange(4), torch.arange(5), indexing="ij")
    i, j = i.flatten(), j.flatten()
    cross = (i[:, None] == i) | (j[:, None] == j)
    assert (cross.sum(1) == 4 + 5 - 1).all()
    current = x
    for step in range(2):
        q, k, v = (conv1x1(c, current).flatten(2) for c in (module.query, module.key, module.value))
        dense = torch.einsum("bdn,bdm->bnm", q, k).masked_fill(~cross, -torch.inf).softmax(-1)
        got = dense_attention(out.attention[:, step])
        assert torch.allclose(got, dense, atol=1e-10)
        current = current + 0.7 * torch.einsum("bnm,bcm->bcn", dense, v).view_as(x)
    assert torch.allclose(out.output, current, atol=1e-10)
    assert torch.allclose(out.attention.sum(-1), torch.ones(2, 2, 4, 5, dtype=F64))
    # one pass reaches the cross only, two reach every pixel
    first, second = (dense_attention(out.attention[:, s]) for s in (0, 1))
    assert (first[0, 0] == 0).any()
    assert ((second @ first) > 0).all()


def test_untrained_criss_cross_is_the_identity():
    module = CrissCrossAttention(8).double()
    assert torch.equal(module(maps()).output, maps())


# EM attention


def test_em_step_is_the_loop():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 7, 3, generator=generator, dtype=F64)
    bases = F.normalize(torch.randn(1, 4, 3, generator=generator, dtype=F64), dim=-1)
    weights, moved = em_step(x, bases, sharpness=2.0)
    for n in range(7):
        e = torch.stack([torch.exp(2.0 * x[0, n] @ bases[0, k]) for k in range(4)])
        assert torch.allclose(weights[0, n], e / e.sum(), atol=1e-12)
    for k in range(4):
        mean = sum(weights[0, n, k] * x[0, n] for n in range(7)) / weights[0, :, k].sum()
        assert torch.allclose(moved[0, k], mean / mean.norm(), atol=1e-9)


def test_em_attention_sums_to_one_and_finds_planted_clusters():
    torch.manual_seed(0)
    module = EMAttention(6, bases=3, rounds=5, sharpness=20.0).double().eval()
    with torch.no_grad():
        module.before.weight.copy_(torch.eye(6)[:, :, None, None])
        module.before.bias.zero_()
    truth = torch.randint(0, 3, (1, 6, 7), generator=torch.Generator().manual_seed(1))
    x = F.one_hot(truth, 6).permute(0, 3, 1, 2).double()
    with torch.no_grad():
        module.initial.copy_(F.normalize(torch.eye(3, 6) + 0.2 * torch.rand(3, 6), dim=-1))
    out = module(x)
    assert torch.allclose(out.attention.sum(1), torch.ones(1, 6, 7, dtype=F64))
    assert torch.equal(out.attention.argmax(1), truth)
    expected = torch.eye(3, 6, dtype=F64)[None]
    assert torch.allclose(out.bases, expected, atol=1e-3)


def test_em_attention_initial_bases_move_in_training_only():
    torch.manual_seed(0)
    module = EMAttention(8, momentum=0.9).double()
    before = module.initial.clone()
    module.eval()(maps())
    assert torch.equal(module.initial, before)
    out = module.train()(maps())
    expected = F.normalize(0.9 * before + 0.1 * out.bases.mean(0), dim=-1)
    assert torch.allclose(module.initial, expected, atol=1e-12)


# matrix decomposition


def test_factorisation_equals_scikit_learns():
    decomposition = pytest.importorskip("sklearn.decomposition")
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(1, 6, 20, generator=generator, dtype=F64)
    start = torch.rand(1, 6, 3, generator=generator, dtype=F64)
    codes = (x.transpose(1, 2) @ start).softmax(-1)
    got = factorise(x, start, steps=9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that nine steps do not converge: they need not
        w, h, _ = decomposition.non_negative_factorization(
            x[0].T.numpy(),
            W=codes[0].numpy().copy(),
            H=start[0].T.numpy().copy(),
            n_components=3,
            init="custom",
            solver="mu",
            max_iter=9,
            tol=0,
        )
    assert torch.allclose(got[1][0], torch.from_numpy(w), atol=1e-8)
    assert torch.allclose(got[0][0].T, torch.from_numpy(h), atol=1e-8)


def test_each_update_lowers_the_error_and_keeps_the_sign():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, 6, 20, generator=generator, dtype=F64)
    dictionary = torch.rand(2, 6, 3, generator=generator, dtype=F64)
    codes = torch.rand(2, 20, 3, generator=generator, dtype=F64)
    errors = []
    for _ in range(30):
        codes = update_codes(x, dictionary, codes)
        errors.append((x - dictionary @ codes.transpose(1, 2)).norm().item())
        dictionary = update_dictionary(x, dictionary, codes)
        errors.append((x - dictionary @ codes.transpose(1, 2)).norm().item())
    assert all(b <= a + 1e-12 for a, b in itertools.pairwise(errors))
    assert codes.min() >= 0
    assert dictionary.min() >= 0


def test_hamburger_output_is_input_plus_low_rank_context():
    torch.manual_seed(0)
    module = Hamburger(8, rank=3).double()
    out = module(maps())
    codes = out.attention.flatten(2)
    low = torch.einsum("bcr,brn->bcn", out.dictionary, codes).view_as(maps())
    assert torch.allclose(out.output, maps() + conv1x1(module.upper, low), atol=1e-10)
    assert torch.linalg.matrix_rank(low[0].flatten(1)) <= 3
    assert torch.equal(module(maps()).attention, out.attention)
