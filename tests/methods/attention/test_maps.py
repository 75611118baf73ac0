"""Maps of attention against the formulas written out with matrices of tokens by tokens."""

import itertools

import numpy as np
import pytest
import timm
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import attnviz
from attnviz import attention
from attnviz.attention.tap import Site
from attnviz.attention.tap import fold as _fold
from attnviz.errors import AttentionUnavailable, AttnvizWarning, LayerNotFound, MethodError
from attnviz.methods.attention import steps
from attnviz.methods.attention.flow import attention_flow
from attnviz.methods.attention.steps import attend, gradient_rows
from tests.support.attention_models import plain, timm_model


@pytest.fixture(scope="module")
def pair():
    """The same model fused (what attnviz reads) and written out (what the formulas read)."""
    fused, written = plain(fused=True, depth=3), plain(fused=False, depth=3)
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(3)).double()
    logits = written(x)
    target = logits.argmax(1)
    logits.gather(1, target[:, None]).sum().backward()
    kept = [b.attn.kept for b in written.blocks]
    return fused, x, [k.detach() for k in kept], [k.grad for k in kept], written


def _values(fused, x, method, **options):
    return attnviz.explain(fused, x, method=method, **options).values


def _close(got, wanted, atol=1e-12):
    torch.testing.assert_close(got, wanted.to(got.dtype).view(got.shape), atol=atol, rtol=0)


def _mixed(weights, fusion="mean", residual=0.5):
    fused = {"mean": weights.mean(1), "max": weights.amax(1), "min": weights.amin(1)}[fusion]
    full = residual * torch.eye(fused.shape[-1]).double() + (1 - residual) * fused
    return full / full.sum(-1, keepdim=True)


def test_values_are_double_where_the_model_is(pair):
    fused, x, *_ = pair
    assert _values(fused, x, "rollout").dtype == torch.float64


@pytest.mark.parametrize("fusion", ["mean", "max", "min"])
@pytest.mark.parametrize("residual", [0.5, 0.2])
def test_rollout_equals_the_product_of_matrices(pair, fusion, residual):
    fused, x, weights, *_ = pair
    product = torch.eye(17).double().expand(2, -1, -1)
    for layer in weights:
        product = _mixed(layer, fusion, residual) @ product
    with torch.no_grad(), attention.tap(fused, keep="qk") as tap:
        fused(x)
    row = torch.zeros(2, 17).double()
    row[:, 0] = 1
    got = attention.rollout(tap.attention, row, fusion=fusion, residual=residual, budget=500)
    torch.testing.assert_close(got, product[:, 0], atol=1e-12, rtol=0)
    _close(_values(fused, x, "rollout", fusion=fusion, residual=residual), product[:, 0, 1:])
    _close(_values(fused, x, "rollout", fusion=fusion, residual=residual, row=(2, 1)),
           product[:, 1 + 9, 1:])  # fmt: skip


def test_rollout_in_float32():
    fused = plain(fused=True, double=False, depth=3)
    double = plain(fused=False, double=True, depth=3)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        double(x.double())
    product = torch.eye(17).double()
    for block in double.blocks:
        product = _mixed(block.attn.kept) @ product
    _close(_values(fused, x, "rollout"), product[:, 0, 1:], atol=1e-6)


def test_discarding_sets_the_smallest_entries_of_each_image_to_zero(pair):
    fused, x, weights, *_ = pair
    product = torch.eye(17).double()
    for layer in weights:
        flat = layer.mean(1).flatten(1).clone()
        for image in range(2):
            order = flat[image].argsort()[: int(17 * 17 * 0.6)]
            flat[image, order[order != 0]] = 0
        full = 0.5 * torch.eye(17).double() + 0.5 * flat.view(2, 17, 17)
        product = full / full.sum(-1, keepdim=True) @ product
    _close(_values(fused, x, "rollout", discard=0.6), product[:, 0, 1:])


def test_raw_class_row_and_received(pair):
    fused, x, weights, *_ = pair
    last = weights[-1]
    _close(_values(fused, x, "raw_attention"), last.mean(1)[:, 0, 1:])
    _close(_values(fused, x, "raw_attention", head=1, row=(1, 2)), last[:, 1, 7, 1:])
    _close(_values(fused, x, "raw_attention", head="max", row="cls"), last.amax(1)[:, 0, 1:])
    _close(_values(fused, x, "raw_attention", row="mean"), last.mean(1)[:, 1:, 1:].mean(1))
    _close(
        _values(fused, x, "cls_attention", head=2, layer="blocks.0.attn"), weights[0][:, 2, 0, 1:]
    )
    _close(_values(fused, x, "attention_received"), last.mean(1).sum(1)[:, 1:])


def test_gradient_weighted_maps_without_any_matrix(pair):
    fused, x, weights, gradients, _ = pair
    weighted = [(g * w).clamp(min=0).mean(1) for g, w in zip(gradients, weights, strict=True)]
    _close(_values(fused, x, "gradient_attention"), weighted[-1][:, 0, 1:])
    _close(_values(fused, x, "gradient_attention", layer="blocks.1"), weighted[1][:, 0, 1:])

    relevance = torch.eye(17).double().expand(2, -1, -1)
    for layer in weighted:
        relevance = relevance + layer @ relevance
    _close(_values(fused, x, "generic_relevance"), relevance[:, 0, 1:])

    product = torch.eye(17).double()
    for layer in weighted:
        total = layer.sum(-1, keepdim=True)
        rows = torch.where(total > 0, layer / total.clamp(min=1e-300), torch.eye(17).double())
        product = (0.5 * torch.eye(17).double() + 0.5 * rows) @ product
    _close(_values(fused, x, "gradient_rollout"), product[:, 0, 1:])


def test_several_classes_share_one_forward_and_give_what_single_ones_give(pair):
    fused, x, *_ = pair
    names = ["gradient_attention", "rollout", "generic_relevance"]
    both = attnviz.explain(fused, x, method=names, classes=[0, 3])
    for name in names:
        assert both[name].target == (0, 3, 0, 3)
        for i, target in enumerate((0, 3)):
            _close(both[name].values[i::2], _values(fused, x, name, target=target))
    assert torch.equal(both["rollout"].values[0], both["rollout"].values[1])
    assert both["rollout"].meta["class_specific"] is False


def test_maps_do_not_depend_on_the_batch(pair):
    fused, x, *_ = pair
    for name in ("rollout", "generic_relevance", "legrad", "attnlrp", "grad_eclip"):
        together = _values(fused, x, name)
        alone = torch.cat([_values(fused, x[i : i + 1], name) for i in range(2)])
        _close(together, alone, atol=1e-10)


def test_frozen_and_no_grad_models_and_nothing_altered(pair):
    fused, x, *_ = pair
    wanted = _values(fused, x, "generic_relevance")
    frozen = plain(fused=True, depth=3).requires_grad_(False)
    state = torch.get_rng_state()
    with torch.no_grad():
        _close(_values(frozen, x, "generic_relevance"), wanted)
    with torch.inference_mode():
        _close(_values(frozen, x, "generic_relevance"), wanted)
    assert torch.equal(state, torch.get_rng_state())
    assert all(p.grad is None and not p.requires_grad for p in frozen.parameters())
    assert not any(m._forward_hooks for m in frozen.modules())


def test_legrad_by_its_definition(pair):
    fused, x, _, _, written = pair
    target = written(x).argmax(1)
    tokens, total = [], 0
    z = written.patch(x).flatten(2).transpose(1, 2)
    z = torch.cat([written.cls.expand(2, -1, -1), z], 1) + written.pos
    for block in written.blocks:
        z = block(z)
        tokens.append((z, block.attn.kept))
    for z, kept in tokens:
        score = written.head(written.norm(z.mean(1))).gather(1, target[:, None]).sum()
        (gradient,) = torch.autograd.grad(score, kept, retain_graph=True)
        total = total + gradient.clamp(min=0).mean((1, 2))[:, 1:] / 3
    _close(_values(fused, x, "legrad"), total)
    got = _values(fused, x, "legrad", projection=lambda z: fused.head(fused.norm(z.mean(1))))
    _close(got, total)


class _Products(TorchDispatchMode):
    """Counts matrix products."""

    def __init__(self):
        super().__init__()
        self.number = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.number += func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm)
        return func(*args, **(kwargs or {}))


def test_legrad_is_linear_in_depth():
    x = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(3)).double()
    numbers = []
    for depth in (2, 4, 6):
        with _Products() as products:
            _values(plain(fused=True, depth=depth), x, "legrad", target=1)
        numbers.append(products.number)
    assert numbers[2] - numbers[1] == numbers[1] - numbers[0]


def test_legrad_of_a_hugging_face_model_equals_its_definition():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=24, num_hidden_layers=3, num_attention_heads=3, intermediate_size=48,
        image_size=32, patch_size=8, num_labels=5,
    )  # fmt: skip
    model = transformers.ViTForImageClassification._from_config(config, attn_implementation="eager")
    model = model.double().eval()
    x = torch.randn(2, 3, 32, 32).double()
    with torch.enable_grad():
        out = model(x, output_hidden_states=True, output_attentions=True)
        total = 0
        for tokens, weights in zip(out.hidden_states[1:], out.attentions, strict=True):
            score = model.classifier(model.vit.layernorm(tokens.mean(1)))[:, 2].sum()
            (gradient,) = torch.autograd.grad(score, weights, retain_graph=True)
            total = total + gradient.clamp(min=0).mean((1, 2))[:, 1:] / 3
    _close(_values(model, x, "legrad", target=2), total)


@pytest.mark.peer("torchcam")
def test_legrad_of_torchcam():
    from torchcam import methods
    from torchvision import models

    if not hasattr(methods, "LeGrad"):
        pytest.skip("this torchcam has no LeGrad")
    torch.manual_seed(0)
    model = models.VisionTransformer(64, 16, 3, 4, 64, 128, num_classes=7).eval()
    torch.nn.init.normal_(model.heads[0].weight)
    x = torch.randn(1, 3, 64, 64)
    with methods.LeGrad(model, list(model.encoder.layers)) as extractor:
        scores = model(x)
        theirs = extractor(3, scores)[0]
    got = _values(model, x, "legrad", target=3)[0]
    got = (got - got.min()) / (got.max() - got.min())
    torch.testing.assert_close(got, theirs.reshape(got.shape), atol=1e-5, rtol=0)


def test_grad_eclip_by_its_definition(pair):
    fused, x, _, _, written = pair
    target = written(x).argmax(1)
    block = written.blocks[-1]
    seen = {}
    handle = block.attn.register_forward_pre_hook(lambda m, a: seen.update(x=a[0]))
    out = block.attn.proj.register_forward_pre_hook(lambda m, a: seen.update(o=a[0]))
    score = written(x).gather(1, target[:, None]).sum()
    handle.remove()
    out.remove()
    (gradient,) = torch.autograd.grad(score, seen["o"])
    q, k, v = block.attn.qkv(seen["x"]).chunk(3, -1)
    near = torch.cosine_similarity(q[:, :1], k[:, 1:], dim=-1)
    product = (gradient[:, :1] * v[:, 1:]).sum(-1)
    _close(_values(fused, x, "grad_eclip", rescale=False), (product * near).relu())
    low, high = near.amin(1, keepdim=True), near.amax(1, keepdim=True)
    _close(_values(fused, x, "grad_eclip"), (product * (near - low) / (high - low)).relu())


def test_maps_can_be_trained_on(pair):
    fused, x, *_ = pair
    weight = fused.blocks[0].attn.qkv.weight
    for name in ("rollout", "generic_relevance", "gradient_attention"):

        def energy(name=name):
            return (
                attnviz.explain(fused, x, method=name, create_graph=True, target=1)
                .values[:, :2]
                .sum()
            )

        (gradient,) = torch.autograd.grad(energy(), weight)
        step = torch.zeros_like(weight)
        step[3, 5] = 1e-6
        with torch.no_grad():
            weight += step
            up = energy().item()
            weight -= 2 * step
            down = energy().item()
            weight += step
        assert gradient[3, 5].item() == pytest.approx((up - down) / 2e-6, rel=1e-3, abs=1e-8)


class _Largest(TorchDispatchMode):
    """Notes the largest tensor that any operation makes."""

    def __init__(self):
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, torch.Tensor):
                self.numbers = max(self.numbers, tensor.untyped_storage().nbytes() // 4)
        return out


@pytest.mark.parametrize(
    "method", ["rollout", "cls_attention", "attention_received", "gradient_attention",
               "generic_relevance", "legrad", "gradient_rollout"]
)  # fmt: skip
def test_no_matrix_of_tokens_by_tokens_is_formed(method, monkeypatch):
    # rows are made in chunks of a few; the kernel's own buffers are not the map's
    monkeypatch.setattr(steps, "_CHUNK", 2**15)
    monkeypatch.setattr(_fold, "BUDGET", 2**15)
    model = timm_model("vit_tiny_patch16_224", depth=2, embed_dim=24, num_heads=2, size=512)
    x = torch.randn(1, 3, 512, 512)
    with _Largest() as plain_run, torch.no_grad():
        model(x)
    with _Largest() as largest:
        attnviz.explain(model, x, method=method, target=1)
    assert plain_run.numbers < largest.numbers == x.numel() < 1025 * 1025
    with _Largest() as control:  # discarding sorts the whole matrix, so it shows here
        attnviz.explain(model, x, method="rollout", discard=0.5)
    assert control.numbers >= 1025 * 1025


# -- flow -----------------------------------------------------------------------------------------


def _least_cut(matrices, source, sink):
    """Maximum flow by the smallest cut, over every set of inner nodes: for tiny graphs."""
    depth, count = len(matrices), matrices[0].shape[0]
    inner = [(level, i) for level in range(1, depth) for i in range(count)]
    best = np.inf
    for chosen in itertools.product((0, 1), repeat=len(inner)):
        side = {node for node, on in zip(inner, chosen, strict=True) if on} | {(0, source)}
        cut = 0.0
        for level, matrix in enumerate(matrices):
            for i in range(count):
                if (level, i) not in side:
                    continue
                for j in range(count):
                    below = (level + 1, j)
                    if level + 1 == depth and j != sink:
                        continue  # a dead end carries nothing
                    if below not in side:
                        cut += matrix[i, j]
        best = min(best, cut)
    return best


def test_flow_equals_the_smallest_cut():
    generator = np.random.default_rng(0)
    matrices = [generator.random((3, 3)) for _ in range(3)]
    got = attention_flow(matrices, 1)
    wanted = [_least_cut(matrices[::-1], 1, sink) for sink in range(3)]
    np.testing.assert_allclose(got, wanted, atol=1e-9)


def test_flow_by_hand():
    # two layers; from token 0 to input 0: 0.3 by token 0 and min(0.7, 0.4) by token 1
    last, first = np.array([[0.3, 0.7], [0, 1]]), np.array([[0.9, 0.1], [0.4, 0.6]])
    np.testing.assert_allclose(attention_flow([first, last], 0)[0], 0.7)


def test_flow_map(pair):
    fused, x, weights, *_ = pair
    matrices = [(0.5 * torch.eye(17) + 0.5 * w[0].mean(0)).numpy() for w in weights]
    wanted = attention_flow(matrices, 0)[1:]
    got = _values(fused, x[:1], "attention_flow")
    np.testing.assert_allclose(got.flatten().numpy(), wanted, atol=1e-6)


# -- windows, class attention, stages ------------------------------------------------------------


def _window_matrix(site):
    """The attention of all windows of each image as one matrix over positions."""
    places, weights = site.places(), site.weights().mean(1).double()
    cells = places.grid[0] * places.grid[1]
    full = torch.zeros(places.images, cells, cells).double()
    for window in range(site.batch):
        position = places.position[window]
        inside = position >= 0
        at = position[inside]
        full[places.image[window, 0], at[:, None], at] = weights[window][inside][:, inside]
    return full


def test_rollout_of_shifted_windows_equals_the_scattered_matrices():
    config = {"window_size": 4, "depths": (2, 2), "num_heads": (2, 4), "embed_dim": 32}
    model = timm_model("swin_tiny_patch4_window7_224", **config)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad(), attention.tap(model) as tap:
        model(x)
    matrices = [_window_matrix(s) for s in tap.attention]
    row = torch.full((2, 64), 1 / 64).double()
    for i in (3, 2):
        row = 0.5 * row + 0.5 * (row[:, None] @ matrices[i])[:, 0]
    row = (row.view(2, 8, 8) / 4).repeat_interleave(2, 1).repeat_interleave(2, 2).flatten(1)
    for i in (1, 0):
        row = 0.5 * row + 0.5 * (row[:, None] @ matrices[i])[:, 0]
    got = attnviz.explain(model, x, method="rollout").values
    _close(got, row.view(2, 16, 16), atol=1e-6)
    received = attnviz.explain(model, x, method="attention_received", layer="layers.0.blocks.1")
    _close(received.values, matrices[1].sum(1).view(2, 16, 16), atol=1e-5)


def test_class_attention_passes_the_class_tokens_share_on_to_patches():
    model = timm_model("cait_xxs24_224", depth=2)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad(), attention.tap(model) as tap:
        model(x)
    product = torch.eye(17).double()
    for site in tap.attention[2:]:
        full = torch.eye(17).double().repeat(2, 1, 1)
        full[:, 0] = 0.5 * full[:, 0] + 0.5 * site.weights().double().mean(1)[:, 0]
        product = full @ product
    row = product[:, 0, 1:]
    for site in tap.attention[1::-1]:
        row = 0.5 * row + 0.5 * (row[:, None] @ site.weights().double().mean(1))[:, 0]
    _close(attnviz.explain(model, x, method="rollout").values, row, atol=1e-6)


def test_mean_pooled_models_start_from_the_mean_of_patches():
    model = plain(fused=True, cls=False)
    x = torch.randn(1, 3, 32, 32).double()
    with torch.no_grad(), attention.tap(model) as tap:
        model(x)
    wanted = tap.attention[-1].weights().mean((1, 2))
    _close(_values(model, x, "raw_attention"), wanted)
    with pytest.raises(MethodError, match="no class token"):
        _values(model, x, "cls_attention")


# -- errors ---------------------------------------------------------------------------------------


def test_errors_say_what_to_do(pair):
    fused, x, *_ = pair
    for options, message in (
        ({"method": "rollout", "fusion": "median"}, "expected one of mean"),
        ({"method": "rollout", "discard": 1.5}, r"discard=1.5 is in \[0, 1\)"),
        ({"method": "rollout", "fusoin": "max"}, "did you mean 'fusion'"),
        ({"method": "raw_attention", "head": 9}, "heads 0 to 2"),
        ({"method": "raw_attention", "row": (9, 0)}, "outside the grid of 4 x 4"),
        ({"method": "raw_attention", "row": "class"}, "expected None, 'cls', 'mean'"),
        ({"method": "rollout", "signed": True}, "no signed form"),
        ({"method": "legrad", "pool": "max"}, "expected 'mean'"),
    ):
        with pytest.raises(MethodError, match=message):
            attnviz.explain(fused, x, **options)
    with pytest.raises(LayerNotFound, match="With attention"):
        attnviz.explain(fused, x, method="rollout", layer="head")


def test_networks_without_attention_say_so():
    with pytest.raises(AttentionUnavailable, match="gradcam"):
        attnviz.explain(timm_model("resnet18"), torch.randn(1, 3, 64, 64), method="rollout")


def test_what_a_map_of_all_layers_leaves_out_is_said():
    model = timm_model("xcit_nano_12_p16_224", depth=2)
    with pytest.warns(AttnvizWarning, match=r"leaves out 2 attention layers.*channel"):
        attnviz.explain(model, torch.randn(1, 3, 64, 64), method="rollout")


class Beside(nn.Module):
    """Tokens that are changed in place after they were made, and a path beside them to the head."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.patch, self.norm = nn.Conv2d(3, 8, 4, 4), nn.BatchNorm2d(8)
        self.attn = timm.layers.Attention(8, num_heads=2)
        self.act, self.head = nn.SiLU(inplace=True), nn.Linear(8 * 12, 3)
        self.beside = nn.Linear(8 * 12, 3)

    def forward(self, x):
        stem = self.patch(x)
        tokens = self.attn(stem.flatten(2).transpose(1, 2))
        grid = self.act(self.norm(tokens.transpose(1, 2).unflatten(2, stem.shape[2:])))
        return self.beside(stem.flatten(1)) + self.head(grid.flatten(1))


def test_rollout_begins_with_what_the_head_reads_of_tokens_that_changed_in_place():
    model, x = Beside().double().eval(), torch.rand(2, 3, 12, 16).double()
    kept = []
    handle = model.norm.register_forward_hook(lambda part, i, out: kept.append(out) or out.clone())
    model(x)[:, 1].sum().backward(inputs=kept)
    handle.remove()
    row = kept[0].grad.flatten(2).norm(dim=1)
    row = row / row.sum(1, keepdim=True)
    assert row.std() > 0.005  # far from a mean
    written = _values(model, x, "rollout", target=1, row=row)
    _close(_values(model, x, "rollout", target=1), written, atol=1e-9)


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("budget", [1, 700, 10**7])
def test_heads_in_turn_are_all_heads_at_once(groups, budget):
    """Grouped keys too: each head finds its own, however the work is cut."""
    made = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, h, 9, 5, generator=made).double() for h in (4, groups, groups))
    site = Site(0, "own", "self", "sdpa", 0, 0, 2, 4, 9, 9, scale=0.7, q=q, k=k, v=v)
    slope = torch.randn(2, 4, 9, 5, generator=made).double()
    row = torch.rand(2, 9, generator=made).double()
    keys, values = (t.repeat_interleave(4 // groups, 1) for t in (k, v))
    weights = (0.7 * q @ keys.transpose(2, 3)).softmax(3)
    effect = (weights * (slope @ values.transpose(2, 3))).clamp(min=0)
    for given, wanted in ((None, weights), (gradient_rows(site, slope), effect)):
        found = attend(site, row, None, weights=given, budget=budget)
        torch.testing.assert_close(found, (row[:, None] @ wanted.mean(1))[:, 0])
    one = attend(site, row, None, head=2, budget=budget)
    torch.testing.assert_close(one, (row[:, None] @ weights[:, 2])[:, 0])
    most = attend(site, row, lambda part, _: part.amax(1), budget=budget)
    torch.testing.assert_close(most, (row[:, None] @ weights.amax(1))[:, 0])
