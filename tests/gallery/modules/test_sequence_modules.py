import pytest
import torch

from attnviz.gallery.modules.captioning import Captioner
from attnviz.gallery.modules.hierarchical import ContextAttention, HierarchicalAttention
from attnviz.gallery.modules.highway import Highway, HighwayClassifier
from attnviz.gallery.modules.self_attention import ImageTransformer, SelfAttention
from attnviz.gallery.modules.temporal import ClipClassifier, TemporalAttention

F64 = torch.float64


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


# hierarchical attention


def test_context_attention_is_the_formula():
    torch.manual_seed(0)
    module = ContextAttention(5, hidden=4).double()
    states = randn(3, 6, 5)
    mask = torch.arange(6) < torch.tensor([[6], [3], [0]])
    pooled, weights = module(states, mask)
    for b, count in enumerate((6, 3)):
        e = torch.stack(
            [
                (
                    module.u.weight[0] @ torch.tanh(module.w.weight @ states[b, t] + module.w.bias)
                ).exp()
                for t in range(count)
            ]
        )
        assert torch.allclose(weights[b, :count], e / e.sum(), atol=1e-10)
        assert torch.allclose(pooled[b], (e / e.sum()) @ states[b, :count], atol=1e-10)
    assert weights[1, 3:].abs().max() == 0
    assert weights[2].abs().max() == 0
    assert pooled[2].abs().max() == 0


def test_hierarchy_is_words_then_sentences_and_ignores_padding():
    torch.manual_seed(0)
    model = HierarchicalAttention(20, embed=4, hidden=6).double()
    sentences = [[3, 4, 5], [6, 7], [8]]
    document = torch.zeros(1, 5, 4, dtype=torch.long)
    for i, words in enumerate(sentences):
        document[0, i, : len(words)] = torch.tensor(words)
    out = model(document)
    vectors = []
    for i, words in enumerate(sentences):
        states = model.word_gru(model.embed(torch.tensor([words])))[0]
        vector, weights = model.word_attention(states, torch.ones(1, len(words), dtype=torch.bool))
        assert torch.allclose(out.words[0, i, : len(words)], weights[0], atol=1e-10)
        vectors.append(vector)
    states = model.sentence_gru(torch.stack(vectors, 1))[0]
    pooled, weights = model.sentence_attention(states, torch.ones(1, 3, dtype=torch.bool))
    assert torch.allclose(out.sentences[0, :3], weights[0], atol=1e-10)
    assert torch.allclose(out.logits, model.head(pooled), atol=1e-10)
    assert out.sentences[0, 3:].abs().max() == 0
    assert out.words[0, 3:].abs().max() == 0
    assert out.words[0, :3].sum(1).tolist() == pytest.approx([1, 1, 1])


# captioning


@pytest.mark.parametrize("hard", [False, True])
def test_caption_step_by_hand(hard):
    torch.manual_seed(0)
    model = Captioner(9, hard=hard, channels=6, embed=4, hidden=5).double()
    image, caption = randn(2, 3, 12, 16).abs(), torch.tensor([[3, 4, 2], [5, 2, 0]])
    vectors = model.reader(image).flatten(2).transpose(1, 2)
    score = model.attend.score
    torch.nn.init.normal_(model.begin)
    state = torch.tanh(model.begin)[None].repeat(2, 1)
    out = model(image, caption)
    token = torch.tensor([1, 1])
    for step in range(3):
        hidden = torch.tanh((state @ score.query.weight.T)[:, None] + vectors @ score.key.weight.T)
        alpha = torch.softmax(hidden @ score.v.weight[0], 1)
        assert torch.allclose(out.attention[:, step].flatten(1), alpha, atol=1e-10)
        place = alpha.argmax(1)
        assert torch.equal(out.places[:, step], place)
        assert torch.allclose(out.log_prob[:, step].exp(), alpha.max(1).values, atol=1e-10)
        if hard:
            seen = vectors[torch.arange(2), place]
        else:
            seen = torch.einsum("bn,bnd->bd", alpha, vectors)
        word = model.word.weight[token]
        x, cell = torch.cat((word, seen), 1), model.cell
        gi = (x @ cell.weight_ih.T + cell.bias_ih).chunk(3, 1)
        gh = (state @ cell.weight_hh.T + cell.bias_hh).chunk(3, 1)
        r, z = ((gi[k] + gh[k]).sigmoid() for k in (0, 1))
        state = (1 - z) * torch.tanh(gi[2] + r * gh[2]) + z * state
        logits = torch.cat((state, seen, word), 1) @ model.head.weight.T + model.head.bias
        assert torch.allclose(out.logits[:, step], logits, atol=1e-10)
        token = caption[:, step]


def test_hard_attention_draws_places_as_often_as_their_weights():
    torch.manual_seed(0)
    model = Captioner(9, hard=True, channels=6, embed=4, hidden=5)
    image = torch.rand(1, 3, 8, 8).expand(20_000, -1, -1, -1)
    caption = torch.full((20_000, 1), 3)
    out = model(image, caption, sample=True, generator=torch.Generator().manual_seed(0))
    share = torch.bincount(out.places[:, 0], minlength=4) / 20_000
    alpha = out.attention[0, 0].flatten()
    assert ((share - alpha).abs() < 4 * (alpha * (1 - alpha) / 20_000).sqrt()).all()


# temporal attention


def test_temporal_attention_with_and_without_a_query():
    torch.manual_seed(0)
    frames, query = randn(2, 7, 5), randn(2, 3, seed=1)
    asked = TemporalAttention(5, query=3, hidden=4).double()
    plain = TemporalAttention(5, hidden=4).double()
    for module, h in ((asked, query), (plain, None)):
        out = module(frames, h)
        for b in range(2):
            add = 0 if h is None else module.query.weight @ h[b]
            e = [
                module.w.weight[0] @ torch.tanh(add + module.frame.weight @ v + module.frame.bias)
                for v in frames[b]
            ]
            alpha = torch.stack(e).softmax(0)
            assert torch.allclose(out.attention[b], alpha, atol=1e-10)
            assert torch.allclose(out.output[b], alpha @ frames[b], atol=1e-10)
    with pytest.raises(ValueError, match="built with a query"):
        asked(frames)
    with pytest.raises(ValueError, match="built without one"):
        plain(frames, query)


def test_temporal_attention_follows_a_shuffle_of_the_frames():
    torch.manual_seed(0)
    model = ClipClassifier().double()
    clip = randn(2, 6, 1, 16, 16)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    out, shuffled = model(clip), model(clip[:, order])
    assert torch.allclose(shuffled.attention, out.attention[:, order], atol=1e-10)
    assert torch.allclose(shuffled.logits, out.logits, atol=1e-10)


# highway


def test_highway_mixes_two_branches():
    torch.manual_seed(0)
    module = Highway(4).double()
    x = randn(3, 4)
    out = module(x)
    for b in range(3):
        gate = 1 / (1 + torch.exp(-(module.gate.weight @ x[b] + module.gate.bias)))
        made = (module.transform.weight @ x[b] + module.transform.bias).clamp_min(0)
        assert torch.allclose(out.gate[b], gate, atol=1e-10)
        assert torch.allclose(out.output[b], gate * made + (1 - gate) * x[b], atol=1e-10)
    with torch.no_grad():
        module.gate.bias.fill_(-1e4)
    assert torch.equal(module(x).output, x)


def test_shutting_every_gate_leaves_two_linear_layers():
    torch.manual_seed(0)
    model = HighwayClassifier(layers=3).double()
    x = randn(2, 64)
    out = model(x, keep=lambda gate: gate < 0)
    expected = model.head((x @ model.enter.weight.T + model.enter.bias).clamp_min(0))
    assert torch.allclose(out.logits, expected, atol=1e-10)
    assert torch.equal(model(x).logits, model(x, keep=lambda gate: gate > 0).logits)


# self-attention


@pytest.mark.parametrize("scores", ["softmax", "relu"])
def test_self_attention_is_the_einsum(scores):
    torch.manual_seed(0)
    module = SelfAttention(8, heads=2, scores=scores).double()
    x = randn(2, 5, 8)
    out = module(x)
    w, b = module.qkv.weight.view(3, 2, 4, 8), module.qkv.bias.view(3, 2, 1, 4)
    q, k, v = (torch.einsum("hdc,bnc->bhnd", w[i], x) + b[i] for i in range(3))
    s = torch.einsum("bhid,bhjd->bhij", q, k) / 2
    a = s.exp() / s.exp().sum(-1, keepdim=True) if scores == "softmax" else s.clamp_min(0) / 5
    assert torch.allclose(out.attention, a, atol=1e-10)
    mixed = torch.einsum("bhij,bhjd->bihd", a, v).reshape(2, 5, 8)
    assert torch.allclose(out.output, mixed @ module.out.weight.T + module.out.bias, atol=1e-10)
    if scores == "softmax":
        assert torch.allclose(a.sum(-1), torch.ones(2, 2, 5, dtype=F64))
    else:
        assert (out.attention == 0).any()


def test_softmax_self_attention_is_torchs_sdpa():
    torch.manual_seed(0)
    module = SelfAttention(8, heads=2).double()
    x = randn(2, 5, 8)
    q, k, v = module.qkv(x).view(2, 5, 3, 2, 4).permute(2, 0, 3, 1, 4)
    fused = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    assert torch.allclose(
        module(x).output, module.out(fused.transpose(1, 2).flatten(2)), atol=1e-10
    )


def test_pruning_everything_leaves_the_output_bias_and_nothing_is_the_model():
    torch.manual_seed(0)
    model = ImageTransformer(depth=2).double()
    image = randn(2, 1, 32, 32)
    whole = model(image)
    same = model(image, keep=[lambda weights: weights >= 0, None])
    assert torch.allclose(whole.logits, same.logits, atol=1e-12)
    module = model.blocks[0].attention
    x = randn(2, 65, 48, seed=3)
    bare = module(x, keep=lambda weights: weights < 0).output
    assert torch.allclose(bare, module.out.bias.expand_as(bare), atol=1e-12)
    with pytest.raises(ValueError, match="got 'sparsemax'"):
        SelfAttention(8, scores="sparsemax")


def test_relu_rows_begin_at_the_sum_that_softmax_rows_have():
    torch.manual_seed(0)
    module = SelfAttention(40, scores="relu")
    tokens = torch.nn.functional.layer_norm(torch.randn(16, 65, 40), (40,))
    sums = module(tokens).attention.sum(-1)
    assert sums.mean().item() == pytest.approx(1, abs=0.15)
    # a standard normal's positive part is 1 / sqrt(2 pi) on average: that of the scores, scaled
    score = 7.5 * (1 / 3) / (2 * torch.pi) ** 0.5
    assert score == pytest.approx(1, abs=0.01)
