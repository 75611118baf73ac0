import pytest
import torch

from attnviz.gallery.modules.alignment import GlobalAttention, make_score
from attnviz.gallery.modules.local_attention import LocalAttention
from attnviz.gallery.modules.seq2seq import Seq2Seq

F64 = torch.float64
SCORES = ["additive", "dot", "general", "concat", "location", "cosine"]


def data(batch=3, length=6, dim=8):
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(batch, dim, generator=generator, dtype=F64)
    keys = torch.randn(batch, length, dim, generator=generator, dtype=F64)
    mask = torch.arange(length) < torch.tensor([[length], [length - 2], [1]])
    return query, keys, mask


def by_hand(name, module, s, h, j):
    if name == "additive":
        hidden = torch.tanh(module.query.weight @ s + module.key.weight @ h)
        return module.v.weight[0] @ hidden
    if name == "dot":
        return sum(a * b for a, b in zip(s, h, strict=True))
    if name == "general":
        return torch.einsum("i,ij,j->", s, module.w.weight, h)
    if name == "concat":
        return module.v.weight[0] @ torch.tanh(module.w.weight @ torch.cat((s, h)))
    if name == "location":
        return module.w.weight[j] @ s
    return module.log_beta.exp() * (s @ h) / (s.norm() * h.norm())


@pytest.mark.parametrize("name", SCORES)
def test_scores_one_pair_at_a_time(name):
    torch.manual_seed(0)
    module = make_score(name, 8, 8, longest=9).double()
    query, keys, mask = data()
    score = module(query, keys)
    for b in range(3):
        for j in range(6):
            expected = by_hand(name, module, query[b], keys[b, j], j)
            assert torch.isclose(score[b, j], expected, atol=1e-10)
    context, weights = GlobalAttention(module)(query, keys, mask, 0)
    for b in range(3):
        count = int(mask[b].sum())
        e = score[b, :count].exp()
        assert torch.allclose(weights[b, :count], e / e.sum(), atol=1e-10)
        assert torch.all(weights[b, count:] == 0)
        mixed = sum(weights[b, j] * keys[b, j] for j in range(6))
        assert torch.allclose(context[b], mixed, atol=1e-10)
    assert torch.allclose(weights.sum(1), torch.ones(3, dtype=F64))


def test_concat_is_additive_and_general_with_identity_is_dot():
    torch.manual_seed(0)
    query, keys, _ = data()
    additive, concat = make_score("additive", 8, 8).double(), make_score("concat", 8, 8).double()
    with torch.no_grad():
        concat.w.weight.copy_(torch.cat((additive.query.weight, additive.key.weight), 1))
        concat.v.weight.copy_(additive.v.weight)
    assert torch.allclose(additive(query, keys), concat(query, keys), atol=1e-10)
    general = make_score("general", 8, 8).double()
    with torch.no_grad():
        general.w.weight.copy_(torch.eye(8))
    assert torch.allclose(general(query, keys), make_score("dot", 8, 8)(query, keys), atol=1e-10)


def test_location_reads_no_key_and_cosine_no_length():
    torch.manual_seed(0)
    query, keys, _ = data()
    location = make_score("location", 8, 8, longest=6).double()
    assert torch.equal(location(query, keys), location(query, torch.zeros_like(keys)))
    cosine = make_score("cosine", 8, 8).double()
    assert torch.allclose(cosine(query, keys), cosine(7 * query, 0.2 * keys), atol=1e-10)
    assert cosine(query, keys).abs().max() <= cosine.log_beta.exp()
    with pytest.raises(ValueError, match="knows 6 positions, got 7"):
        location(query, torch.zeros(3, 7, 8, dtype=F64))
    with pytest.raises(ValueError, match="query 8 and key 9"):
        make_score("dot", 8, 9)
    with pytest.raises(ValueError, match="'bilinear' is not one of"):
        make_score("bilinear", 8, 8)


def test_local_predictive_weights_are_window_softmax_times_gaussian():
    torch.manual_seed(0)
    score = make_score("general", 8, 8).double()
    module = LocalAttention(score, half=2, predict=8).double()
    query, keys, mask = data()
    _, weights = module(query, keys, mask, 4)
    first, second = module.predictor[0].weight, module.predictor[2].weight
    for b in range(3):
        count = int(mask[b].sum())
        p = count / (1 + torch.exp(-(second[0] @ torch.tanh(first @ query[b]))))
        assert torch.isclose(module.centre(query, mask, 4)[b], p, atol=1e-10)
        inside = [s for s in range(count) if abs(s - p) <= 2]
        e = torch.stack([torch.exp(query[b] @ score.w.weight @ keys[b, s]) for s in inside])
        for s, align in zip(inside, e / e.sum(), strict=True):
            gauss = torch.exp(-((s - p) ** 2) / (2 * 1.0**2))  # sigma = D / 2 = 1
            assert torch.isclose(weights[b, s], align * gauss, atol=1e-10)
        outside = [s for s in range(6) if s not in inside]
        assert torch.all(weights[b, outside] == 0)
    assert (weights.sum(1) < 1).all()
    gradient = torch.autograd.grad(weights.square().sum(), second)[0]
    assert gradient.abs().max() > 0
    assert module.half() is module  # its own, not the window's half width


def test_local_monotone_window_walks_and_stops_at_the_end():
    torch.manual_seed(0)
    module = LocalAttention(make_score("dot", 8, 8), half=1).double()
    query, keys, mask = data()
    for step, expected in [(0, {0, 1}), (3, {2, 3, 4}), (5, {4, 5}), (9, {4, 5})]:
        weights = module(query, keys, mask, step)[1]
        assert set(weights[0].nonzero().flatten().tolist()) == expected
        assert torch.allclose(weights.sum(1), torch.ones(3, dtype=F64))
    # a window as wide as the source is global attention
    wide = LocalAttention(make_score("dot", 8, 8), half=9)(query, keys, mask, 2)
    everywhere = GlobalAttention(make_score("dot", 8, 8))(query, keys, mask, 2)
    assert torch.allclose(wide[1], everywhere[1])
    with pytest.raises(ValueError, match="half must be at least 1"):
        LocalAttention(make_score("dot", 8, 8), half=0)


def gru(cell, x, h):
    gi = (x @ cell.weight_ih.T + cell.bias_ih).chunk(3, 1)
    gh = (h @ cell.weight_hh.T + cell.bias_hh).chunk(3, 1)
    r, z = ((gi[k] + gh[k]).sigmoid() for k in (0, 1))
    return (1 - z) * torch.tanh(gi[2] + r * gh[2]) + z * h


@pytest.mark.parametrize("order", ["bahdanau", "luong"])
def test_decoder_by_hand(order):
    torch.manual_seed(0)
    model = Seq2Seq(9, 7, order=order, score="general", embed=4, hidden=6).double()
    source = torch.tensor([[3, 4, 5, 6], [7, 8, 0, 0]])
    target = torch.tensor([[3, 4, 2], [5, 2, 0]])
    out = model(source, target)
    keys, state, mask = model.encode(source)
    feed, token = torch.zeros(2, 6, dtype=F64), torch.tensor([1, 1])
    for step in range(3):
        embedded = model.write.weight[token]

        def attend(s):
            e = torch.einsum("bd,de,bse->bs", s, model.attend.score.w.weight, keys).exp() * mask
            a = e / e.sum(1, keepdim=True)
            return torch.einsum("bs,bse->be", a, keys), a

        if order == "bahdanau":
            context, weights = attend(state)
            state = gru(model.cell, torch.cat((embedded, context), 1), state)
        else:
            state = gru(model.cell, torch.cat((embedded, feed), 1), state)
            context, weights = attend(state)
        both = torch.cat((context, state), 1)
        feed = torch.tanh(both @ model.combine.weight.T + model.combine.bias)
        logits = feed @ model.head.weight.T + model.head.bias
        assert torch.allclose(out.attention[:, step], weights, atol=1e-10)
        assert torch.allclose(out.logits[:, step], logits, atol=1e-10)
        token = target[:, step]


def test_padding_and_batch_mates_do_not_matter():
    torch.manual_seed(0)
    model = Seq2Seq(9, 7, score="additive", embed=4, hidden=6).double()
    alone = model(torch.tensor([[7, 8]]), torch.tensor([[5, 2]]))
    beside = model(torch.tensor([[3, 4, 5, 6], [7, 8, 0, 0]]), torch.tensor([[3, 4], [5, 2]]))
    assert torch.allclose(alone.logits[0], beside.logits[1], atol=1e-10)
    assert torch.allclose(alone.attention[0], beside.attention[1, :, :2], atol=1e-10)
    assert beside.attention[1, :, 2:].abs().max() == 0


def test_greedy_writing_repeats_its_own_forced_output():
    torch.manual_seed(0)
    model = Seq2Seq(9, 7, longest=5, embed=4, hidden=6).double()
    source = torch.tensor([[3, 4, 5, 6]])
    free = model(source)
    forced = model(source, free.logits.argmax(2))
    assert torch.allclose(free.logits, forced.logits, atol=1e-10)
