"""Grids, kinds, heads and rows are known from what a model computes, and not guessed."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import attnviz
from attnviz import attention
from attnviz.attention.statistics import head_table
from attnviz.errors import MethodError
from tests.support.attention_models import PlainBlock, hf_model, plain, sharpen, timm_model

MAPS = ("rollout", "raw_attention", "generic_relevance", "gradient_attention", "attention_received")


def _sites(model, *args, **inputs):
    with torch.no_grad(), attention.tap(model, keep="qk") as tap:
        model(*args, **inputs)
    return tap.attention


class OwnViT(nn.Module):
    """Patches that go through an operation, then queries, keys and values of layers apart."""

    def __init__(self, operation: str, heads: int = 4) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 32, 8, 8)
        self.q, self.k, self.v = nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 32)
        self.head = nn.Linear(32, 5)
        self.operation, self.heads = operation, heads

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        if self.operation == "tanh":
            x = torch.tanh(x)
        elif self.operation == "where":
            x = torch.where(x > 0, x, 0.1 * x)
        elif self.operation == "stack":
            x = torch.stack([x, 2 * x]).mean(0)
        elif self.operation == "unknown":
            x = torch.cumsum(x, 2)
        b, n, _ = x.shape
        q, k, v = (
            m(x).view(b, n, self.heads, -1).transpose(1, 2) for m in (self.q, self.k, self.v)
        )
        out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, -1)
        return self.head((x + out).mean(1))


def test_groups_that_patches_are_assigned_to_look_at_another_sequence():
    """GroupViT: the groups went through layers in one sequence with the patches they look at."""
    transformers = pytest.importorskip("transformers")
    config = transformers.GroupViTVisionConfig(
        hidden_size=32, depths=[2, 2], num_hidden_layers=4, num_group_tokens=[6, 0],
        num_output_groups=[4, 0], num_attention_heads=4, intermediate_size=32, image_size=32,
        patch_size=8,
    )  # fmt: skip
    torch.manual_seed(0)
    sites = _sites(transformers.GroupViTVisionModel(config).eval(), torch.randn(1, 3, 32, 32))
    crossing = [s for s in sites if s.queries != s.keys]
    assert [(s.name.rpartition("downsample.")[2], s.kind, s.grid) for s in crossing] == [
        ("pre_assign_attn.attn", "cross", (4, 4)), ("assign", "cross", (4, 4)),
    ]  # fmt: skip
    assert {s.kind for s in sites if s.queries == s.keys} == {"self"}


@pytest.mark.parametrize(
    ("options", "window", "keys"),
    [({}, None, [7, 8, 9]), ({}, 4, [7, 4, 4]), ({"num_beams": 2}, None, [7, 8, 9]),
     ({"cache_implementation": "static", "disable_compile": True}, None, [7, 9, 9])],
    ids=["growing", "sliding", "beams", "static"],
)  # fmt: skip
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_every_kind_of_cache_is_self_attention_of_all_heads(implementation, options, window, keys):
    t = pytest.importorskip("transformers")
    config = t.MistralConfig(
        vocab_size=40, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=32, num_key_value_heads=2, sliding_window=window, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = t.MistralForCausalLM._from_config(config, attn_implementation=implementation).eval()
    with attention.tap(model, keep="all") as read:
        model.generate(torch.arange(4, 11)[None], min_new_tokens=3, max_new_tokens=3,
                       do_sample=False, **options)  # fmt: skip
    beams = options.get("num_beams", 1)
    if implementation == "eager" and "cache_implementation" in options:
        keys = [9, 9, 9]  # it looks at the places that are not written yet, under a mask
    assert [(s.kind, s.batch, s.heads, s.keys) for s in read.attention[::2]] == [
        ("self", beams, 4, count) for count in keys
    ]


@pytest.mark.parametrize("operation", ["tanh", "where", "stack"])
def test_the_grid_is_carried_from_the_patches_through_any_operation(operation):
    torch.manual_seed(0)
    model, x = OwnViT(operation).eval(), torch.randn(2, 3, 32, 48)
    (site,) = _sites(model, x)
    assert (site.prefix, site.grid, site.kind) == (0, (4, 6), "self")
    for method in MAPS:
        assert attnviz.explain(model, x, method=method).values.shape == (2, 4, 6)
    got = attnviz.explain(model, x, method="raw_attention").values
    torch.testing.assert_close(got.flatten(1), site.weights().mean((1, 2)))
    torch.testing.assert_close(got.sum((1, 2)), torch.ones(2))


def test_what_could_not_be_followed_is_asked_for():
    torch.manual_seed(0)
    model, x = OwnViT("unknown").eval(), torch.randn(2, 3, 32, 48)
    (site,) = _sites(model, x)
    assert site.grid is None
    with pytest.raises(attnviz.errors.AttentionUnavailable, match=r"grid=\(rows, columns\)"):
        attnviz.explain(model, x, method="raw_attention", row="mean")
    got = attnviz.explain(model, x, method="raw_attention", row="mean", grid=(4, 6)).values
    torch.testing.assert_close(got.flatten(1), site.weights().mean((1, 2)))
    with pytest.raises(MethodError, match="grid"):
        attnviz.explain(model, x, method="raw_attention", row="mean", grid=(5, 6))


@pytest.mark.parametrize("queries", [6, 20, 21, 25])
def test_object_queries_are_no_picture(queries):
    transformers = pytest.importorskip("transformers")
    from tests.support.attention_models import hf_config

    config = hf_config("detr")
    config.num_queries = queries
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(config).eval()
    sites = _sites(model, pixel_values=torch.randn(1, 3, 128, 160))
    own = [s for s in sites if s.kind == "self" and "decoder" in s.name]
    assert own
    assert all(s.grid is None for s in own)
    assert all(s.grid == (4, 5) for s in sites if s not in own)


class Grouped(nn.Module):
    """Grouped queries as einsum has them."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads = 4
        self.q, self.kv = nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, x):
        q = self.q(x).unflatten(2, (2, 2, 4)).permute(0, 2, 3, 1, 4)
        k, v = self.kv(x).unflatten(2, (2, 2, 4)).permute(2, 0, 3, 1, 4)
        weights = torch.einsum("bgrqd,bgkd->bgrqk", q, k).softmax(-1)
        self.kept = weights
        return torch.einsum("bgrqk,bgkd->bgrqd", weights, v).permute(0, 3, 1, 2, 4).flatten(2)


def test_heads_of_a_group_are_heads():
    torch.manual_seed(0)
    model = Grouped()
    (site,) = _sites(model, torch.randn(3, 5, 16))
    assert (site.batch, site.heads, site.queries, site.keys) == (3, 4, 5, 5)
    torch.testing.assert_close(site.weights(), model.kept.flatten(1, 2))


def test_grouped_decoding_under_a_mask():
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=64, vocab_size=100,
    )  # fmt: skip
    found = {}
    for name in ("sdpa", "eager"):
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation=name)
        ids = torch.arange(3, 13).view(2, 5)
        mask = torch.ones(2, 5, dtype=torch.long)
        mask[0, :2] = 0
        with torch.no_grad(), attention.tap(sharpen(model).eval()) as tap:
            model.generate(ids, attention_mask=mask, max_new_tokens=3, do_sample=False,
                           pad_token_id=0, eos_token_id=None)  # fmt: skip
        found[name] = tap.attention
    assert max(s.error() for s in found["sdpa"]) < 1e-5
    for mine, theirs in zip(found["sdpa"], found["eager"], strict=True):
        assert (mine.heads, mine.queries, mine.keys) == (4, theirs.queries, theirs.keys)
        live = slice(2, None) if mine.queries > 1 else slice(None)  # padded rows differ
        torch.testing.assert_close(
            mine.weights()[:, :, live], theirs.weights()[:, :, live], atol=1e-5, rtol=0
        )


def test_a_pooling_head_is_where_maps_start():
    model = timm_model("vit_base_patch16_siglip_224", depth=2, embed_dim=48, num_heads=3,
                       num_classes=5).double()  # fmt: skip
    x = torch.randn(2, 3, 64, 64).double()
    sites = _sites(model, x)
    assert [s.kind for s in sites] == ["self", "self", "pooling"]
    pool = sites[-1].weights().mean(1)[:, 0]
    got = attnviz.explain(model, x, method="raw_attention").values
    torch.testing.assert_close(got.flatten(1), pool.to(got.dtype))
    torch.testing.assert_close(got.sum((1, 2)), torch.ones(2).to(got.dtype))
    row = pool[:, None]
    for site in sites[1::-1]:
        row = 0.5 * row + 0.5 * row @ site.weights().mean(1)
    got = attnviz.explain(model, x, method="rollout").values
    torch.testing.assert_close(got.flatten(1), row[:, 0].to(got.dtype))
    for method in ("generic_relevance", "gradient_attention", "gradient_rollout", "legrad"):
        assert attnviz.explain(model, x, method=method).values.shape == (2, 4, 4)


class Reads(nn.Module):
    """A transformer with a class token whose head reads what it is told to."""

    def __init__(self, reads: str) -> None:
        super().__init__()
        self.patch, self.reads = nn.Conv2d(3, 24, 8, 8), reads
        self.cls_token = nn.Parameter(torch.randn(1, 2 if reads == "two" else 1, 24))
        self.blocks = nn.ModuleList(PlainBlock(24, 3, True) for _ in range(2))
        self.norm = nn.LayerNorm(24)
        self.head, self.other = nn.Linear(24, 5), nn.Linear(24, 5)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        first = self.cls_token.shape[1]
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        if self.reads == "mean":
            return self.head(x[:, first:].mean(1))
        if self.reads == "cls":
            return self.head(x[:, 0])
        last = x[:, 1] if self.reads == "two" else x[:, first:].mean(1)
        return self.head(x[:, 0]) + self.other(last)


@pytest.mark.parametrize("reads", ["cls", "mean", "both", "two"])
def test_the_row_is_what_the_head_reads(reads):
    torch.manual_seed(0)
    model = Reads(reads).double().eval()
    x = torch.randn(2, 3, 32, 32).double()
    prefix = 2 if reads == "two" else 1
    row = torch.zeros(2, prefix + 16).double()
    first, other = model.head.weight[3].norm().item(), model.other.weight[3].norm().item()
    if reads == "cls":
        row[:, 0] = 1
    elif reads == "mean":
        row[:, 1:] = 1 / 16
    elif reads == "two":
        row[:, :2] = torch.tensor([first, other])
    else:
        row[:, 0], row[:, 1:] = first, other / 16
    row = row / row.sum(1, keepdim=True)
    for method in ("raw_attention", "rollout", "generic_relevance", "gradient_attention"):
        got = attnviz.explain(model, x, method=method, target=3).values
        wanted = attnviz.explain(model, x, method=method, target=3, row=row).values
        torch.testing.assert_close(got, wanted)
    mass = attention.region_mass(model, x, torch.ones(1, 1, 32, 32).double(), rows=row)
    assert mass.shape == (2, 2, 3, 1)


class Two(nn.Module):
    def __init__(self, batch_first: bool = True) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(16, 16), nn.Linear(16, 16)
        self.attn = nn.MultiheadAttention(16, 4, batch_first=batch_first)

    def forward(self, u, v=None):
        if v is None:
            return self.attn(query=u, key=u, value=u)[0]
        u, v = self.one(u), self.two(v)
        return self.attn(u, v, v)[0]


def test_kinds_are_told_by_where_queries_and_keys_come_from():
    torch.manual_seed(0)
    model, u, v = Two(), torch.randn(2, 6, 16), torch.randn(2, 6, 16)
    assert [s.kind for s in _sites(model, u)] == ["self"]
    assert [s.kind for s in _sites(model, u, v)] == ["cross"]
    assert [s.kind for s in _sites(model, u, u)] == ["self"]


def test_self_attention_in_the_decoder_of_segment_anything():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.SamMaskDecoderConfig(
        hidden_size=32, num_attention_heads=4, mlp_dim=64, iou_head_hidden_dim=32,
    )  # fmt: skip
    from transformers.models.sam.modeling_sam import SamTwoWayTransformer

    class Asks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.two_way, self.points = SamTwoWayTransformer(config), nn.Embedding(5, 32)

        def forward(self, image):
            points = self.points(torch.arange(5)).expand(1, 1, -1, -1)
            return self.two_way(points, image, torch.ones_like(image), None)

    sites = _sites(Asks().eval(), torch.randn(1, 32, 4, 4))
    kinds = {s.name.split("two_way.")[1]: s.kind for s in sites}
    assert {k for n, k in kinds.items() if "self_attn" in n} == {"self"}
    assert {k for n, k in kinds.items() if "self_attn" not in n} == {"cross"}


def test_padded_rows_count_nowhere():
    model, inputs = hf_model("bert")
    alone = {name: value[1:, :6] for name, value in inputs.items()}
    padded = {name: value[1:] for name, value in inputs.items()}
    for mine, theirs in zip(head_table(model, padded).rows(), head_table(model, alone).rows(),
                            strict=True):  # fmt: skip
        for column in ("entropy", "distance", "sink_mass", "previous", "redundancy"):
            assert mine[column] == pytest.approx(theirs[column], rel=1e-4), column


def test_one_window_a_stage_is_the_same_for_any_batch():
    model = timm_model("swinv2_cr_tiny_ns_224", size=64, window_size=4, depths=(2, 2),
                       num_heads=(2, 4), embed_dim=32)  # fmt: skip
    x = torch.randn(2, 3, 64, 64)
    kinds = [[s.kind for s in _sites(model, part)] for part in (x[:1], x)]
    assert kinds[0] == kinds[1]
    both = attnviz.explain(model, x, method="rollout").values
    alone = torch.cat(
        [attnviz.explain(model, x[i : i + 1], method="rollout").values for i in (0, 1)]
    )
    torch.testing.assert_close(both, alone)


def test_memory_of_chunks_and_of_the_head_table(monkeypatch):
    from attnviz.attention.tap import fold

    torch.manual_seed(0)
    model = plain(fused=True, double=False).blocks[0].attn
    budget = 2 * 2**20
    monkeypatch.setattr(fold, "BUDGET", budget)
    monkeypatch.setattr(attention.statistics.rows, "BUDGET", budget)
    (site,) = _sites(model, torch.randn(1, 1024, 24))
    for run in (lambda: [None for _ in site.chunks()],
                lambda: attention.statistics.site_statistics(site)):  # fmt: skip
        with _Alive() as alive:
            run()
        assert alive.peak < 2 * budget  # 12 MiB would be the weights of all rows
    with _Alive() as alive:
        site.weights()
    assert alive.peak > 5 * budget


class _Alive(torch.utils._python_dispatch.TorchDispatchMode):
    """Bytes of storages that operations made and that live at once."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self.known = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        import weakref

        leaves = torch.utils._pytree.tree_leaves((args, kwargs))
        given = {t.untyped_storage().data_ptr() for t in leaves if isinstance(t, torch.Tensor)}
        out = func(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                key, size = storage._cdata, storage.nbytes()
                if storage.data_ptr() in given or key in self.known:
                    continue
                self.known.add(key)
                self.now += size
                self.peak = max(self.peak, self.now)
                weakref.finalize(tensor, self._gone, key, size)
        return out

    def _gone(self, key, size):
        self.known.discard(key)
        self.now -= size


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", ["qwen2_vl", "qwen2_5_vl"])
def test_pictures_packed_into_one_sequence_are_each_read_alone(kind, implementation):
    """Two of one size: their attention has the keys of either, and none of the other's."""
    pytest.importorskip("transformers", minversion="5.0")
    from tests.support.vlm_models import family

    tower = family(kind, implementation)[0].model.visual
    embed = tower.patch_embed
    width = embed.in_channels * embed.temporal_patch_size * embed.patch_size**2
    patches = torch.randn(32, width, generator=torch.Generator().manual_seed(0))
    grids = torch.tensor([[1, 4, 4], [1, 4, 4]])
    with torch.no_grad(), attention.tap(tower) as packed:
        tower(patches, grid_thw=grids)
    for number in range(2):
        own = slice(16 * number, 16 * number + 16)
        with torch.no_grad(), attention.tap(tower) as alone:
            tower(patches[own], grid_thw=grids[:1])
        pairs = list(zip(packed.attention[number::2], alone.attention, strict=True))
        assert len(pairs) == 2
        for found, wanted in pairs:
            assert (found.name, found.queries) == (wanted.name, wanted.queries)
            torch.testing.assert_close(found.weights(), wanted.weights())
