"""Region mass and relevance across cross-attention, against the matrices written out."""

import pytest
import torch
from torch import nn

from attnviz import attention
from attnviz.errors import AttentionUnavailable, DataError, MethodError
from tests.support.attention_models import hf_model, plain, timm_model


def _masks():
    masks = torch.zeros(2, 3, 32, 32)
    masks[:, 0, :16] = 1  # the upper half
    masks[:, 1, 16:] = 1
    masks[0, 2, 4:12, 4:12] = 1  # a quarter of each of four patches
    return masks


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("rows", [None, "mean", (1, 2)])
def test_region_mass_is_attention_times_mask(fused, rows):
    model = plain(fused=fused)
    x = torch.randn(2, 3, 32, 32).double()
    masks = _masks()
    with torch.no_grad():
        got = attention.region_mass(model, x, masks, rows=rows)
        with attention.tap(model) as tap:
            model(x)
    cells = masks.double().unflatten(2, (4, 8)).unflatten(4, (4, 8)).mean((3, 5)).flatten(2)
    for layer, site in enumerate(tap.attention):
        weights = site.weights()
        chosen = {None: weights[:, :, 0], "mean": weights[:, :, 1:].mean(2),
                  (1, 2): weights[:, :, 7]}[rows]  # fmt: skip
        wanted = torch.einsum("bhk,bmk->bhm", chosen[..., 1:], cells)
        torch.testing.assert_close(got[:, layer], wanted, atol=1e-12, rtol=0)
        halves = got[:, layer, :, :2].sum(-1)  # the rest is what the class token keeps
        torch.testing.assert_close(halves, 1 - chosen[..., 0], atol=1e-12, rtol=0)


def test_more_masks_than_the_heads_are_wide():
    model = plain(fused=True)
    x, masks = torch.randn(1, 3, 32, 32).double(), torch.rand(1, 19, 4, 4)
    with torch.no_grad():
        got = attention.region_mass(model, x, masks)
        one = torch.cat([attention.region_mass(model, x, masks[:, i : i + 1]) for i in range(19)],
                        -1)  # fmt: skip
    torch.testing.assert_close(got, one, atol=1e-12, rtol=0)


def test_its_gradient_is_that_of_the_written_out_model():
    x, masks = torch.randn(2, 3, 32, 32).double(), _masks()
    fused, written = plain(fused=True), plain(fused=False)
    weight = torch.randn(2, 2, 3, 3).double()
    (attention.region_mass(fused, x, masks) * weight).sum().backward()
    written(x)
    cells = masks.double().unflatten(2, (4, 8)).unflatten(4, (4, 8)).mean((3, 5)).flatten(2)
    rows = torch.stack([b.attn.kept[:, :, 0, 1:] for b in written.blocks], 1)
    (torch.einsum("blhk,bmk->blhm", rows, cells) * weight).sum().backward()
    compared = 0
    for (name, mine), theirs in zip(fused.named_parameters(), written.parameters(), strict=True):
        if theirs.grad is None:
            assert mine.grad is None or not mine.grad.any(), name
            continue
        torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-12, rtol=0)
        compared += 1
    assert compared > 8


def test_a_step_on_it_as_a_loss_moves_attention_off_the_region():
    model = plain(fused=True, double=False)
    x = torch.randn(4, 3, 32, 32)
    mask = torch.zeros(1, 32, 32)
    mask[:, :, :16] = 1
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    values = []
    for _ in range(15):
        loss = attention.region_mass(model, x, mask).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert values[-1] < 0.5 * values[0]


def test_region_mass_of_windows_counts_each_position_once():
    config = {"window_size": 4, "depths": (2, 2), "num_heads": (4, 4), "embed_dim": 32}
    model = timm_model("swin_tiny_patch4_window7_224", **config)
    x = torch.randn(2, 3, 64, 64)
    mask = torch.zeros(1, 64, 64)
    mask[:, :32, :32] = 1
    whole = torch.ones(1, 64, 64)
    with torch.no_grad():
        got = attention.region_mass(model, x, torch.cat([mask, whole]))
        with attention.tap(model) as tap:
            model(x)
    torch.testing.assert_close(got[..., 1], torch.ones(2, 4, 4), atol=1e-5, rtol=0)
    for layer, site in enumerate(tap.attention):
        places = site.places()
        height, width = places.grid
        inside = torch.zeros(height, width)
        inside[: height // 2, : width // 2] = 1
        columns = inside.flatten()[places.position]
        each = torch.einsum("bhqk,bk->bhq", site.weights(), columns)
        wanted = places.scatter(each).mean((2, 3))
        torch.testing.assert_close(got[:, layer, :, 0], wanted, atol=1e-5, rtol=0)


def test_region_mass_errors():
    model, x = plain(fused=True), torch.randn(2, 3, 32, 32).double()
    with pytest.raises(DataError, match=r"\[0, 1\]"):
        attention.region_mass(model, x, torch.full((1, 8, 8), 255.0))
    with pytest.raises(DataError, match="expected"):
        attention.region_mass(model, x, torch.ones(3, 1, 8, 8))
    with pytest.raises(AttentionUnavailable):
        attention.region_mass(
            timm_model("resnet18"), torch.randn(1, 3, 64, 64), torch.ones(1, 8, 8)
        )
    config = {"window_size": 4, "depths": (1, 1), "num_heads": (2, 4), "embed_dim": 32}
    swin = timm_model("swin_tiny_patch4_window7_224", **config)
    with pytest.raises(MethodError, match="name layers of one stage"):
        attention.region_mass(swin, torch.randn(1, 3, 64, 64), torch.ones(1, 8, 8))


# -- relevance across cross-attention ------------------------------------------------------------


class _Pair(nn.Module):
    """An encoder and a decoder whose attention is written out and kept."""

    def __init__(self, layers: int = 2) -> None:
        super().__init__()
        self.encoder = nn.ModuleList(_Layer(False) for _ in range(layers))
        self.decoder = nn.ModuleList(_Layer(True) for _ in range(layers))

    def forward(self, source, target):
        for layer in self.encoder:
            source = layer(source)
        for layer in self.decoder:
            target = layer(target, source)
        return target


class _Layer(nn.Module):
    def __init__(self, crossed: bool) -> None:
        super().__init__()
        self.self_attn = _Heads()
        self.cross_attn = _Heads() if crossed else None

    def forward(self, x, context=None):
        x = x + self.self_attn(x, x)
        return x if self.cross_attn is None else x + self.cross_attn(x, context)


class _Heads(nn.Module):
    num_heads = 2

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(8, 8) for _ in range(3))

    def forward(self, x, context):
        q, k, v = (
            f(t).unflatten(-1, (2, 4)).transpose(1, 2)
            for f, t in ((self.q, x), (self.k, context), (self.v, context))
        )
        weights = (q @ k.transpose(-2, -1)).softmax(-1)
        if weights.requires_grad:
            self.kept = weights
            weights.retain_grad()
        return (weights @ v).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("lengths", [(6, 4), (5, 5)])
def test_encoder_decoder_relevance_by_its_equations(lengths):
    torch.manual_seed(0)
    model = _Pair().double().eval()
    source, target = torch.randn(2, lengths[0], 8).double(), torch.randn(2, lengths[1], 8).double()

    def score(out):
        return out[:, 1, 3]

    found = attention.relevance(model, {"source": source, "target": target}, target=score)
    score(model(source, target)).sum().backward()

    def fused(module):
        return (module.kept.grad * module.kept.detach()).clamp(min=0).mean(1)

    def normal(r):
        beyond = r - torch.eye(r.shape[-1]).double()
        total = beyond.sum(-1, keepdim=True)
        return torch.eye(r.shape[-1]).double() + torch.where(total > 0, beyond / total, beyond)

    ss = torch.eye(lengths[0]).double().expand(2, -1, -1)
    qq = torch.eye(lengths[1]).double().expand(2, -1, -1)
    qs = torch.zeros(2, lengths[1], lengths[0]).double()
    for layer in model.encoder:
        ss = ss + fused(layer.self_attn) @ ss
    for layer in model.decoder:
        own = fused(layer.self_attn)
        qq, qs = qq + own @ qq, qs + own @ qs
        qs = qs + normal(qq).transpose(1, 2) @ fused(layer.cross_attn) @ normal(ss)
    for got, wanted in ((found.source, ss), (found.query, qq), (found.cross, qs)):
        torch.testing.assert_close(got, wanted, atol=1e-12, rtol=0)
    torch.testing.assert_close(found.score, score(model(source, target)).detach())
    with pytest.raises(AttentionUnavailable, match="no picture"):
        found.picture(0)


def test_relevance_of_detection_queries_is_a_picture():
    model, inputs = hf_model("detr", implementation="eager")
    found = attention.relevance(
        model, inputs, target=lambda out: out.last_hidden_state[:, 3].square().sum(-1)
    )
    assert found.cross.shape == (2, 5, 20)
    assert (found.prefix, found.grid) == (0, (4, 5))
    assert torch.equal(found.picture(3).flatten(1), found.cross[:, 3])
    assert (found.picture(3) >= 0).all()
    assert found.picture(3).sum() > 0


def test_relevance_needs_cross_attention():
    with pytest.raises(AttentionUnavailable, match="generic_relevance"):
        attention.relevance(plain(fused=True), torch.randn(1, 3, 32, 32).double())
