"""The tap wherever models run: modes, precisions, compilation, threads, errors; odd shapes."""

import math
import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from attnviz import attention
from attnviz.errors import AttentionUnavailable
from tests.support.attention_models import plain, sharpen, timm_model


class Attend(nn.Module):
    """Fused attention of given tensors, for hand-made cases."""

    def forward(self, q, k, v, **options):
        return F.scaled_dot_product_attention(q, k, v, **options)


def _tapped(q, k, v, **options):
    model = Attend()
    with attention.tap(model) as tap:
        out = model(q, k, v, **options)
    return tap.attention[0], out


def _naive(q, k, mask=None, scale=None):
    """softmax by the definition, in float64, row by row."""
    q, k = q.double(), k.double()
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    logits = scale * torch.einsum("bhqe,bhke->bhqk", q, k)
    if mask is not None:
        logits = logits.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else logits + mask
    top = logits.amax(-1, keepdim=True)
    e = (logits - top.masked_fill(top == -math.inf, 0)).exp()
    total = e.sum(-1, keepdim=True)
    return e / total.masked_fill(total == 0, 1)


# -- hand-made cases -----------------------------------------------------------------------------


def test_two_tokens_by_hand():
    q = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]])
    k = torch.tensor([[[[math.log(3.0), 0.0], [0.0, 0.0]]]])
    site, _ = _tapped(q, k, torch.eye(2)[None, None], scale=1.0)
    # exp(log 3) : exp(0) = 3 : 1, and a query of zeros attends to all alike
    torch.testing.assert_close(site.weights(), torch.tensor([[[[0.75, 0.25], [0.5, 0.5]]]]))
    assert site.error() < 1e-7


@pytest.mark.parametrize("kind", ["bool", "float", "per_head", "one_row"])
def test_masks(kind):
    q, k, v = torch.randn(3, 2, 4, 6, 8).double().unbind(0)
    shape = {"bool": (6, 6), "float": (2, 1, 6, 6), "per_head": (2, 4, 6, 6),
             "one_row": (2, 1, 1, 6)}[kind]  # fmt: skip
    mask = torch.randn(shape).double() if kind == "float" else torch.rand(shape) > 0.4
    if mask.dtype == torch.bool:
        mask[..., 0] = True
    site, out = _tapped(q, k, v, attn_mask=mask)
    wanted = _naive(q, k, mask)
    torch.testing.assert_close(site.weights(), wanted, atol=1e-12, rtol=0)
    torch.testing.assert_close(site.weights(rows=[4, 1], heads=[3]), wanted[:, 3:, [4, 1]])
    torch.testing.assert_close(wanted @ v, out, atol=1e-12, rtol=0)


def test_rows_heads_and_budget_do_not_change_a_weight():
    q, k, v = torch.randn(3, 2, 4, 7, 8).double().unbind(0)
    mask = torch.randn(2, 4, 7, 7).double()
    site, _ = _tapped(q, k, v, attn_mask=mask)
    whole = site.weights()
    for rows in (3, -1, slice(1, 6), slice(0, 7, 2), [5, 0], torch.tensor([2, 2])):
        index = [rows] if isinstance(rows, int) else rows
        for heads in (None, 2, [3, 1]):
            head = slice(None) if heads is None else ([heads] if isinstance(heads, int) else heads)
            wanted = whole[:, head][:, :, index]
            got = site.weights(rows=rows, heads=heads, budget=100)
            torch.testing.assert_close(got, wanted, atol=1e-15, rtol=0)
    chunks = list(site.chunks(budget=1000))
    assert len(chunks) > 1
    torch.testing.assert_close(torch.cat([w for _, w in chunks], 2), whole, atol=1e-15, rtol=0)
    with pytest.raises(IndexError, match="rows=7"):
        site.weights(rows=7)
    with pytest.raises(IndexError, match="heads=-5"):
        site.weights(heads=-5)


@pytest.mark.parametrize(("queries", "keys"), [(5, 5), (3, 5), (5, 3)])
def test_causal_is_aligned_top_left(queries, keys):
    q, k, v = torch.randn(1, 2, queries, 4), torch.randn(1, 2, keys, 4), torch.randn(1, 2, keys, 4)
    site, _ = _tapped(q, k, v, is_causal=True)
    mask = torch.ones(queries, keys, dtype=torch.bool).tril()
    torch.testing.assert_close(site.weights(), _naive(q, k, mask).float(), atol=1e-6, rtol=0)
    torch.testing.assert_close(site.weights(rows=[-1]), site.weights()[:, :, -1:])
    assert site.error() < 1e-6


def test_grouped_heads():
    q, k, v = torch.randn(2, 6, 5, 4), torch.randn(2, 2, 5, 4), torch.randn(2, 2, 5, 4)
    site, _ = _tapped(q, k, v, enable_gqa=True)
    wanted = _naive(q, k.repeat_interleave(3, 1)).float()
    torch.testing.assert_close(site.weights(), wanted, atol=1e-6, rtol=0)
    torch.testing.assert_close(site.weights(heads=[5]), wanted[:, 5:], atol=1e-6, rtol=0)
    assert (site.heads, site.error() < 1e-6) == (6, True)


def test_a_row_that_may_attend_to_nothing_is_zero_as_the_kernel_has_it():
    q, k, v = torch.randn(3, 1, 2, 3, 4).double().unbind(0)
    mask = torch.ones(3, 3, dtype=torch.bool)
    mask[1] = False
    q.requires_grad_()
    model = Attend()
    with attention.tap(model, graph=True) as tap:
        out = model(q, k, v, attn_mask=mask)
    site = tap.attention[0]
    weights = site.weights()
    assert (weights[:, :, 1] == 0).all()
    assert (out[:, :, 1] == 0).all()
    torch.testing.assert_close(weights[:, :, [0, 2]].sum(-1), torch.ones(1, 2, 2).double())
    weights.square().sum().backward()
    assert not q.grad.isnan().any()
    assert site.error() < 1e-12


@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 1, 4), (2, 1, 1, 5, 4), (0, 2, 3, 3, 4), (2, 2, 3, 0, 4)]
)
def test_single_tokens_single_heads_and_empty_batches(shape):
    batch, heads, queries, keys, width = shape
    q = torch.randn(batch, heads, queries, width)
    k, v = torch.randn(2, batch, heads, keys, width).unbind(0)
    site, out = _tapped(q, k, v)
    weights = site.weights()
    assert weights.shape == (batch, heads, queries, keys)
    assert not weights.isnan().any()
    if keys:
        torch.testing.assert_close(weights.sum(-1), torch.ones(batch, heads, queries))
    assert site.error() <= 1e-6 or not out.numel()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    q, k, v = torch.randn(3, 2, 2, 9, 16).to(dtype).unbind(0)
    site, _ = _tapped(q, k, v)
    assert site.weights().dtype == torch.float32
    torch.testing.assert_close(site.weights(), _naive(q, k).float(), atol=1e-6, rtol=0)
    assert site.error() < torch.finfo(dtype).eps * 4


def test_unusual_layouts_fold_to_batch_heads_queries_keys():
    class Folded(nn.Module):
        num_heads = 3

        def forward(self, x):
            b, n, c = x.shape
            q = x.view(b, n, 3, -1).transpose(1, 2).reshape(b * 3, n, -1)
            return F.scaled_dot_product_attention(q, q, q)

    class Windows(nn.Module):
        num_heads = 2

        def forward(self, x):  # (B, T, C) in windows of 4: heads before windows, as Hiera has it
            b, _, c = x.shape
            q = x.view(b, -1, 4, 2, c // 2).permute(0, 3, 1, 2, 4)
            return F.scaled_dot_product_attention(q, q, q)

    x = torch.randn(2, 8, 12)
    with attention.tap(model := Folded()) as tap:
        model(x)
    site = tap.attention[0]
    assert (site.batch, site.heads, site.queries, site.error() < 1e-6) == (2, 3, 8, True)
    q = x.view(2, 8, 3, 4).transpose(1, 2)
    torch.testing.assert_close(site.weights(), _naive(q, q).float(), atol=1e-6, rtol=0)

    with attention.tap(model := Windows()) as tap:
        model(x)
    site = tap.attention[0]
    assert (site.batch, site.heads, site.windows, site.kind) == (4, 2, 2, "window")
    q = x.view(2, 2, 4, 2, 6).permute(0, 1, 3, 2, 4).flatten(0, 1)  # image by image
    torch.testing.assert_close(site.weights(), _naive(q, q).float(), atol=1e-6, rtol=0)
    assert site.error() < 1e-6


# -- nn.MultiheadAttention and nn.Transformer ---------------------------------------------------


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
def test_multihead_attention(need_weights, batch_first):
    mha = sharpen(nn.MultiheadAttention(12, 3, batch_first=batch_first, dropout=0.1)).eval()
    x, y = torch.randn(2, 5, 12), torch.randn(2, 7, 12)
    pad = torch.zeros(2, 7, dtype=torch.bool)
    pad[1, 4:] = True
    turn = (lambda t: t) if batch_first else (lambda t: t.transpose(0, 1))
    arguments = (turn(x), turn(y), turn(y))
    wanted = mha(*arguments, key_padding_mask=pad, average_attn_weights=False)[1]
    plain_output = mha(*arguments, key_padding_mask=pad, need_weights=need_weights)[0]
    with attention.tap(mha) as tap:
        out = mha(*arguments, key_padding_mask=pad, need_weights=need_weights)
    assert torch.equal(plain_output, out[0])
    assert (out[1] is None) == (not need_weights)
    (site,) = tap.attention
    assert (site.kind, site.heads, site.batch, site.name) == ("cross", 3, 2, "")
    torch.testing.assert_close(site.weights(), wanted, atol=1e-6, rtol=0)
    assert site.error() < 1e-6


@pytest.mark.parametrize("config", [
    {"bias_k": True}, {"zero": True}, {"kdim": 8}, {"unbatched": True}, {"causal": True},
])  # fmt: skip
def test_multihead_attention_with_extras(config):
    width = config.get("kdim", 12)
    mha = nn.MultiheadAttention(
        12, 3, add_bias_kv="bias_k" in config, add_zero_attn="zero" in config, kdim=width,
        vdim=width, batch_first=True,
    ).eval()  # fmt: skip
    x, y = torch.randn(2, 5, 12), torch.randn(2, 5, width)
    options = {}
    if "unbatched" in config:
        x, y = x[0], y[0]
    if "causal" in config:
        options = {"attn_mask": nn.Transformer.generate_square_subsequent_mask(5),
                   "is_causal": True}  # fmt: skip
    wanted = mha(x, y, y, average_attn_weights=False, **options)[1]
    wanted = wanted if wanted.ndim == 4 else wanted[None]
    with attention.tap(mha) as tap:
        mha(x, y, y, need_weights=False, **options)
    torch.testing.assert_close(tap.attention[0].weights(), wanted, atol=1e-6, rtol=0)
    assert tap.attention[0].error() < 1e-6


def test_transformer_encoder_and_decoder():
    model = nn.Transformer(16, 4, 2, 2, 32, batch_first=True).eval()
    source, target = torch.randn(2, 7, 16), torch.randn(2, 5, 16)
    mask = nn.Transformer.generate_square_subsequent_mask(5)
    with torch.no_grad():
        plain_output = model(source, target, tgt_mask=mask, tgt_is_causal=True)
        with attention.tap(model) as tap:
            out = model(source, target, tgt_mask=mask, tgt_is_causal=True)
    torch.testing.assert_close(plain_output, out, atol=1e-6, rtol=0)
    assert [(s.name, s.kind) for s in tap.attention] == [
        ("encoder.layers.0.self_attn", "self"), ("encoder.layers.1.self_attn", "self"),
        ("decoder.layers.0.self_attn", "self"), ("decoder.layers.0.multihead_attn", "cross"),
        ("decoder.layers.1.self_attn", "self"), ("decoder.layers.1.multihead_attn", "cross"),
    ]  # fmt: skip
    first = model.encoder.layers[0].self_attn(source, source, source, average_attn_weights=False)
    torch.testing.assert_close(tap.attention[0].weights(), first[1], atol=1e-6, rtol=0)
    assert max(s.error() for s in tap.attention) < 1e-6
    # weights of the decoder's first self-attention are causal
    assert tap.attention[2].weights().triu(1).abs().max() == 0


def test_padded_encoder_agrees_with_the_native_path_on_real_tokens():
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    model = nn.TransformerEncoder(layer, 2).eval()
    x = torch.randn(2, 6, 16)
    pad = torch.zeros(2, 6, dtype=torch.bool)
    pad[1, 4:] = True
    with torch.no_grad():
        native = model(x, src_key_padding_mask=pad)
        with attention.tap(model) as tap:
            out = model(x, src_key_padding_mask=pad)
    torch.testing.assert_close(native[~pad], out[~pad], atol=1e-6, rtol=0)
    assert tap.attention[0].weights()[1, :, :, 4:].abs().max() == 0


# -- how models run -----------------------------------------------------------------------------


def test_inference_mode():
    model = timm_model("vit_tiny_patch16_224", depth=2)
    x = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        plain_output = model(x)
        with attention.tap(model) as tap:
            out = model(x)
    assert torch.equal(plain_output, out)
    assert max(s.error() for s in tap.attention) < 1e-5


@pytest.mark.parametrize("fused", [True, False])
def test_autocast(fused):
    model = timm_model("vit_tiny_patch16_224", depth=2, fused=fused, qk_norm=True)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        plain_output = model(x)
        with attention.tap(model) as tap:
            out = model(x)
    assert torch.equal(plain_output, out)
    assert out.dtype == torch.bfloat16
    assert max(s.error() for s in tap.attention) < 0.03


def test_bfloat16_model():
    model = timm_model("vit_tiny_patch16_224", depth=2).bfloat16()
    x = torch.randn(2, 3, 64, 64).bfloat16()
    with torch.no_grad():
        plain_output = model(x)
        with attention.tap(model) as tap:
            out = model(x)
    assert torch.equal(plain_output, out)
    assert max(s.error() for s in tap.attention) < 0.05
    total = tap.attention[0].weights().sum(-1)
    torch.testing.assert_close(total, torch.ones_like(total), atol=1e-5, rtol=0)


@pytest.mark.parametrize("inside", [False, True])
def test_compiled_models_run_eagerly_while_tapped(inside):
    model = plain(double=False, fused=True)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        wanted = model(x)
    names = [f"blocks.{i}.attn" for i in range(2)]
    if inside:
        model.compile(backend="eager")
    compiled = model if inside else torch.compile(model, backend="eager")
    with torch.no_grad():
        before = compiled(x)
        with attention.tap(compiled) as tap:
            out = compiled(x)
        after = compiled(x)
    for result in (before, out, after):
        torch.testing.assert_close(result, wanted)
    assert [s.name for s in tap.attention] == names


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_counts_each_layer_once(reentrant):
    from torch.utils.checkpoint import checkpoint

    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = plain(double=False, fused=True)

        def forward(self, x):
            return checkpoint(self.inner, x, use_reentrant=reentrant)

    model = Checkpointed()
    x = torch.randn(2, 3, 32, 32, requires_grad=True)
    with attention.tap(model) as tap:
        model(x).sum().backward()
    assert [s.name for s in tap.attention] == ["inner.blocks.0.attn", "inner.blocks.1.attn"]
    assert x.grad is not None


@pytest.mark.parametrize("fused", [False, True])
def test_training_keeps_the_weights_before_dropout_and_the_random_stream(fused):
    model = timm_model("vit_tiny_patch16_224", depth=2, fused=fused, attn_drop_rate=0.5)
    x = torch.randn(2, 3, 64, 64)
    with attention.tap(model) as tap:
        model(x)
    wanted = tap.attention[0].weights()
    model.train()
    torch.manual_seed(5)
    plain_output = model(x)
    state = torch.get_rng_state()
    torch.manual_seed(5)
    with attention.tap(model) as tap:
        out = model(x)
    assert torch.equal(plain_output, out)
    assert torch.equal(state, torch.get_rng_state())
    site = tap.attention[0]
    torch.testing.assert_close(site.weights(), wanted)
    assert site.dropped
    assert math.isnan(site.error())


def test_four_threads_each_see_their_own():
    model = plain(double=False, fused=True)
    inputs = [torch.randn(i + 1, 3, 32, 32) for i in range(4)]
    with torch.no_grad():
        wanted = []
        for x in inputs:
            with attention.tap(model) as tap:
                model(x)
            wanted.append([s.weights() for s in tap.attention])
    found: list = [None] * 4
    barrier = threading.Barrier(4)

    def work(i):
        with torch.no_grad(), attention.tap(model) as own:
            barrier.wait()
            for _ in range(5):
                model(inputs[i])
        found[i] = own

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for own, weights in zip(found, wanted, strict=True):
        assert len(own.attention) == 10
        for site in own.attention:
            torch.testing.assert_close(site.weights(), weights[site.index % 2])


def test_other_models_in_the_block_are_not_recorded():
    model, other = plain(double=False, fused=True), plain(double=False, fused=True, seed=1)
    x = torch.randn(1, 3, 32, 32)
    with attention.tap(model) as tap:
        other(x)
        model(x)
    assert len(tap.attention) == 2
    with attention.tap(None) as both:
        other(x)
        model(x)
    assert len(both.attention) == 4


def _state(model):
    return (
        [(n, m.training, len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks))
         for n, m in model.named_modules()],
        [(n, p.requires_grad, p._version) for n, p in model.named_parameters()],
        torch.get_rng_state().tolist(), torch.is_grad_enabled(),
        len(torch.overrides._get_current_function_mode_stack()),
        torch.nn.modules.module._global_forward_hooks,
    )  # fmt: skip


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_left_behind(fails):
    model = plain(double=False, fused=True)
    before = _state(model)
    x = torch.randn(1, 3, 32, 32)
    before = _state(model)
    tap = attention.tap(model)
    if fails:
        with pytest.raises(RuntimeError, match="on purpose"), tap:
            model(x)
            raise RuntimeError("on purpose")
    else:
        with tap:
            model(x)
    assert _state(model) == before
    assert F.scaled_dot_product_attention is torch._C._nn.scaled_dot_product_attention
    with pytest.raises(RuntimeError, match="in use"), tap, tap:
        pass


def test_an_error_inside_the_model_comes_out_as_it_is():
    model = plain(double=False)
    with pytest.raises(RuntimeError, match="size"), attention.tap(model):
        model(torch.randn(1, 3, 40, 40))
    assert not torch.overrides._get_current_function_mode_stack()


# -- what cannot be read ------------------------------------------------------------------------


def test_traced_models_say_so():
    model = plain(double=False, fused=True)
    x = torch.randn(1, 3, 32, 32)
    traced = torch.jit.trace(model, x, check_trace=False)
    with (
        pytest.raises(AttentionUnavailable, match="TorchScript"),
        attention.tap(traced),
    ):
        traced(x)


def test_flex_attention_says_so():
    flex = pytest.importorskip("torch.nn.attention.flex_attention")

    class Flexible(nn.Module):
        def forward(self, q):
            return flex.flex_attention(q, q, q)

    model = Flexible()
    with (
        pytest.raises(AttentionUnavailable, match="flex_attention"),
        attention.tap(model),
        torch.no_grad(),
    ):
        model(torch.randn(1, 2, 8, 16))


def test_a_model_that_did_not_run_is_an_error():
    with pytest.raises(AttentionUnavailable, match="did not run"), attention.tap(plain()):
        pass


def test_overwritten_tensors_are_noticed_and_copies_are_not():
    class Overwrites(nn.Module):
        def forward(self, q):
            out = F.scaled_dot_product_attention(q, q, q)
            q.zero_()
            return out

    model = Overwrites()
    with attention.tap(model) as tap:
        model(torch.randn(1, 1, 3, 4))
    with pytest.raises(AttentionUnavailable, match="copy=True"):
        tap.attention[0].weights()
    q = torch.randn(1, 1, 3, 4)
    wanted = _naive(q, q).float()
    with attention.tap(model, copy=True) as tap:
        model(q)
    torch.testing.assert_close(tap.attention[0].weights(), wanted, atol=1e-6, rtol=0)


def test_what_was_not_kept_is_said():
    model = plain(double=False, fused=True)
    with attention.tap(model, keep="qk") as tap:
        model(torch.randn(1, 3, 32, 32))
    with pytest.raises(AttentionUnavailable, match="kept q, k"):
        tap.attention[0].error()
    with pytest.raises(AttentionUnavailable, match="no values"):
        tap.attention[0].values()
    with pytest.raises(ValueError, match="expected one of 'qk'"):
        attention.tap(model, keep="k")


def test_keeping_q_and_k_lets_go_of_the_buffer_they_share_with_v():
    model = timm_model("vit_tiny_patch16_224", depth=2)
    with torch.no_grad(), attention.tap(model, keep="qk") as tap:
        model(torch.randn(1, 3, 64, 64))
    for site in tap.attention:
        for tensor in (site.q, site.k):
            assert tensor.untyped_storage().nbytes() == tensor.numel() * 4


def test_weights_carry_the_graph_only_if_asked():
    model = plain(double=True, fused=True)
    x = torch.randn(1, 3, 32, 32).double()
    with attention.tap(model) as tap:
        model(x)
    assert not tap.attention[0].weights().requires_grad
    with attention.tap(model, graph=True) as tap:
        model(x)
    weight = model.blocks[0].attn.qkv.weight
    (got,) = torch.autograd.grad(tap.attention[0].weights()[..., 0].sum(), weight)
    written = plain(double=True, fused=False)
    written(x)
    kept = written.blocks[0].attn.kept
    (wanted,) = torch.autograd.grad(kept[..., 0].sum(), written.blocks[0].attn.qkv.weight)
    torch.testing.assert_close(got, wanted, atol=1e-12, rtol=0)
