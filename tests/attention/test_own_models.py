"""Attention as people write it themselves: raw map and rollout against the weights kept inside."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import attnviz
from attnviz import attention
from attnviz.errors import CaptureError, MethodError

HEADS, WIDTH = 3, 24


class Attend(nn.Module):
    """One self-attention, computed in one of many ways; it keeps its weights and values."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.num_heads = how, HEADS
        self.qkv, self.q = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.kv = nn.Linear(WIDTH, 2 * WIDTH // HEADS)
        self.temperature = nn.Parameter(torch.tensor(0.7))
        self.heads = nn.ModuleList(One() for _ in range(HEADS))
        self.mha = nn.MultiheadAttention(WIDTH, HEADS)

    def forward(self, x):
        b, n, c = x.shape
        if self.how == "sequence first":
            y, self.kept = self.mha(*[x.transpose(0, 1)] * 3, average_attn_weights=False)
            return y.transpose(0, 1)
        if self.how == "modules":
            made = [head(x) for head in self.heads]
            self.kept = torch.stack([head.kept for head in self.heads], 1)
            self.values = torch.stack([head.v(x) for head in self.heads], 1)
            return torch.cat(made, -1)
        if self.how == "heads inside":
            parts = self.qkv(x).view(b, n, HEADS, 3 * c // HEADS).transpose(1, 2)
            q, k, v = parts.chunk(3, -1)
        elif self.how == "one key head":
            q = self.q(x).view(b, n, HEADS, -1).transpose(1, 2)
            k, v = (t.expand(b, HEADS, n, -1) for t in self.kv(x)[:, None].chunk(2, -1))
        else:
            q, k, v = self.qkv(x).reshape(b, n, 3, HEADS, -1).permute(2, 0, 3, 1, 4).unbind(0)
        scale = (c // HEADS) ** -0.5
        self.kept, self.values = (q @ k.mT * scale).softmax(-1), v
        if self.how == "chunks":
            y = torch.cat([(p @ k.mT * scale).softmax(-1) @ v for p in q.split(7, 2)], 2)
        elif self.how == "fused chunks, turned":
            parts = [F.scaled_dot_product_attention(p, k, v) for p in q.split(7, 2)]
            y = torch.cat([p.transpose(1, 2) for p in parts], 1).transpose(1, 2)
        elif self.how == "head by head":
            parts = [(q[:, i], k[:, i], v[:, i]) for i in range(HEADS)]
            y = torch.stack([(a @ k.mT * scale).softmax(-1) @ v for a, k, v in parts], 1)
        elif self.how == "values in parts":
            weights = self.kept
            y = torch.cat([weights @ part for part in v.chunk(2, -1)], -1)
        elif self.how == "a learned factor":
            weights = (q @ k.mT * scale).softmax(-1)
            self.kept = self.temperature * weights
            y = self.kept @ v
        elif self.how == "buffer":
            y = torch.empty_like(q)
            for rows in (slice(0, 9), slice(9, n)):
                y[:, :, rows] = F.scaled_dot_product_attention(q[:, :, rows], k, v)
        else:
            y = F.scaled_dot_product_attention(q, k, v)
        return y.transpose(1, 2).reshape(b, n, c)


class One(nn.Module):
    """One head of its own, as tutorials have it."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH // HEADS) for _ in range(3))

    def forward(self, x):
        self.kept = (self.q(x) @ self.k(x).mT * (WIDTH // HEADS) ** -0.5).softmax(-1)
        return self.kept @ self.v(x)


class Block(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.norm, self.attn = nn.LayerNorm(WIDTH), Attend(how)

    def forward(self, x):
        return x + self.attn(self.norm(x))


class ViT(nn.Module):
    """Patches of 8 px; its class token first, last or none; blocks tied or checkpointed."""

    def __init__(self, how="", place="first", tied=False, reentrant=None) -> None:
        super().__init__()
        self.patch, self.place = nn.Conv2d(3, WIDTH, 8, 8), place
        self.cls = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.blocks = nn.ModuleList(Block(how) for _ in range(1 if tied else 2))
        self.order = [0, 0] if tied else [0, 1]
        self.head, self.reentrant = nn.Linear(WIDTH, 5), reentrant

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        token = self.cls.expand(len(x), -1, -1)
        parts = {"first": [token, x], "last": [x, token], "none": [x]}[self.place]
        x, self.seen = torch.cat(parts, 1), []
        for i in self.order:
            if self.reentrant is None:
                x = self.blocks[i](x)
            else:
                x = torch.utils.checkpoint.checkpoint(
                    self.blocks[i], x, use_reentrant=self.reentrant
                )
            self.seen.append(self.blocks[i].attn.kept.detach())
        return self.head({"first": x[:, 0], "last": x[:, -1], "none": x.mean(1)}[self.place])


def made(**options):
    torch.manual_seed(0)
    model = ViT(**options).double().eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(2.0 if weight.ndim > 1 else 1.0)
    return model, torch.randn(2, 3, 32, 48).double()


CASES = {
    "plain": {}, "no class token": {"place": "none"}, "class token last": {"place": "last"},
    "tied": {"tied": True}, "checkpointed": {"reentrant": False},
    "class token last, chunks": {"place": "last", "how": "chunks"},
    "tied, chunks": {"tied": True, "how": "chunks"},
    **{how: {"how": how} for how in (
        "heads inside", "one key head", "chunks", "fused chunks, turned", "head by head",
        "modules", "values in parts", "a learned factor", "sequence first",
    )},
}  # fmt: skip


def read_of(case, count):
    """The row (2, 1, count) that the head reads, and which tokens are patches."""
    place = CASES[case].get("place", "first")
    start = torch.zeros(2, 1, count).double()
    if place == "none":
        start[:] = 1 / count
    else:
        start[:, :, 0 if place == "first" else -1] = 1
    return start, slice(1, None) if place == "first" else slice(0, 24)


@pytest.mark.parametrize("case", CASES)
def test_raw_map_and_rollout_are_those_of_the_weights_kept_inside(case):
    model, x = made(**CASES[case])
    with torch.no_grad(), attention.tap(model) as tap:
        model(x)
    kept = model.seen
    assert [(s.kind, s.heads, s.queries, s.keys) for s in tap.attention] == [
        ("self", HEADS, kept[0].shape[2], kept[0].shape[3])
    ] * 2
    for site, weights in zip(tap.attention, kept, strict=True):
        torch.testing.assert_close(site.weights(), weights)
        assert site.error() < 1e-12
    start, patches = read_of(case, kept[0].shape[-1])
    mean = [weights.mean(1) for weights in kept]
    raw = (start @ mean[-1])[:, 0, patches]
    got = attnviz.explain(model, x, method="raw_attention", target=1).values
    torch.testing.assert_close(got.flatten(1), raw)
    row = start
    for weights in reversed(mean):
        row = (row + row @ weights) / 2
    got = attnviz.explain(model, x, method="rollout", target=1).values
    torch.testing.assert_close(got.flatten(1), row[:, 0, patches])


@pytest.mark.parametrize("case", [c for c in CASES if c != "sequence first"])
def test_gradient_weighted_maps_are_those_of_the_plain_computation(case):
    """Whether heads or chunks are joined, the gradient of the score reaches all of them.

    What `nn.MultiheadAttention` gives went through its projection, so it is left out.
    """
    model, x = made(**CASES[case])
    seen = []
    for block in model.blocks:
        block.attn.register_forward_hook(lambda m, a, y: seen.append((m.kept, m.values, y)))
    logits = model(x)
    weights, values, output = seen[-1]
    (own,) = torch.autograd.grad(logits[:, 1].sum(), output)
    change = own.unflatten(2, (HEADS, -1)).transpose(1, 2) @ values.mT
    start, patches = read_of(case, weights.shape[-1])
    wanted = (start @ (weights * change).clamp(min=0).mean(1))[:, 0, patches]
    assert wanted.max() > 1e-4
    got = attnviz.explain(model, x, method="gradient_attention", target=1).values
    torch.testing.assert_close(got.flatten(1), wanted)


def test_chunks_that_could_not_be_followed_are_refused():
    model, x = made(how="buffer")
    with pytest.raises(MethodError, match=r"chunks of its 25 queries"):
        attnviz.explain(model, x, method="rollout")


def test_a_graph_that_is_cut_is_named():
    model, x = made(reentrant=True)
    assert attnviz.explain(model, x, method="rollout", row="cls").values.shape == (2, 4, 6)
    for method in ("generic_relevance", "legrad"):
        with pytest.raises(MethodError, match="use_reentrant=False"):
            attnviz.explain(model, x, method=method)
    for method in ("attnlrp", "saliency", "fullgrad"):
        with pytest.raises(CaptureError, match="use_reentrant=False"):
            attnviz.explain(model, x, method=method)
