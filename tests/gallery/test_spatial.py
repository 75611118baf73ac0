"""Attention over places: found, read as computed by hand, and drawn as it is."""

import numpy as np
import pytest
import torch
from timm.layers import NonLocalAttn
from timm.layers.bottleneck_attn import BottleneckAttn
from timm.layers.cbam import CbamModule
from timm.layers.halo_attn import HaloAttn
from timm.layers.lambda_layer import LambdaLayer
from torch import nn
from torch.nn import functional as F

import attnviz
from attnviz.errors import DataError
from attnviz.gallery.drawings.criss_cross import criss_cross, reach
from attnviz.gallery.drawings.pairs import place_maps
from attnviz.gallery.drawings.parts import parts
from attnviz.gallery.drawings.spatial import spatial_gate
from attnviz.gallery.drawings.windows import blocks, neighbourhoods
from attnviz.gallery.modules.attention_gate import AttentionUNet
from attnviz.gallery.modules.criss_cross import CrissCrossAttention, dense_attention
from attnviz.gallery.modules.expectation_maximization import EMAttention
from attnviz.gallery.modules.matrix_decomposition import Hamburger
from attnviz.gallery.modules.stand_alone import StandAloneSelfAttention

C, SIDE = 8, 6
PHOTO = torch.rand(3, 24, 24)


def shaken(module, scale=0.5):
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            tensor.normal_(0, scale)
            if name.endswith("running_var"):
                tensor.abs_().add_(0.5)
    return module.eval()


def softmax(z, dim=-1):
    e = torch.exp(z - z.amax(dim, keepdim=True))
    return e / e.sum(dim, keepdim=True)


def project(conv, x):
    """A 1 x 1 convolution written out, in float64."""
    out = torch.einsum("oc,bchw->bohw", conv.weight.detach().double()[:, :, 0, 0], x.double())
    return out if conv.bias is None else out + conv.bias.detach().double()[:, None, None]


def close(a, b):
    np.testing.assert_allclose(np.asarray(a), np.asarray(b.detach()), rtol=0, atol=1e-6)


def drawn(ax):
    """The values of the last image of some axes, NaN where it is clear."""
    return np.ma.filled(ax.images[-1].get_array(), np.nan)


def test_spatial_half_of_cbam():
    module, x = shaken(CbamModule(C, rd_channels=4)), torch.randn(2, C, SIDE, SIDE)
    channel, spatial = attnviz.inspect(module, x)
    assert (channel.kind, spatial.kind, spatial.shape) == ("channel", "spatial", (1, SIDE, SIDE))
    y = x.double() * channel.read().double()
    two = F.pad(torch.stack((y.mean(1), y.amax(1)), 1), (3, 3, 3, 3))
    kernel, bn = module.spatial.conv.conv.weight.detach().double()[0], module.spatial.conv.bn
    score = torch.zeros(2, SIDE, SIDE, dtype=torch.double)
    for i in range(7):
        for j in range(7):
            window = two[:, :, i : i + SIDE, j : j + SIDE]
            score += (kernel[:, i, j, None, None] * window).sum(1)
    score = (score - bn.running_mean.double()) / (bn.running_var.double() + bn.eps).sqrt()
    want = torch.sigmoid(score * bn.weight.detach() + bn.bias.detach())
    close(spatial.read()[:, 0], want)

    figure = spatial_gate(spatial.read()[0], PHOTO, before=y[0], after=y[0] * want[0])
    close(drawn(figure.axes[1]), want[0])
    assert figure.axes[1].images[-1].get_clim() == (0, 1)
    close(drawn(figure.axes[2]), y[0].abs().mean(0))
    close(drawn(figure.axes[3]), (y[0] * want[0]).abs().mean(0))
    for ax in figure.axes[2:4]:
        assert ax.images[-1].get_clim() == (0, drawn(ax).max())


def test_noise_is_left_out_under_a_map_and_a_clear_picture_stays():
    """Maps over scenes of 40 pixels under heavy noise could not be seen."""
    clear = np.full((3, 20, 20), 0.5)
    clear[:, 5:15, 5:15] = 0.9
    noisy = clear + 0.3 * np.random.default_rng(0).standard_normal(clear.shape)
    under = [
        spatial_gate(np.zeros((4, 4)), photo).axes[1].images[0].get_array()
        for photo in (clear, noisy.clip(0, 1))
    ]
    assert np.ptp(under[0][7:13, 7:13]) == 0
    assert under[1][7:13, 7:13].std() < 0.05  # of 0.3 * 0.6 before
    assert under[1][7:13, 7:13].mean() - under[1][:3].mean() > 0.1


def test_attention_gate():
    model, x = shaken(AttentionUNet(width=4), 0.3), torch.rand(2, 3, 16, 16)
    [entry] = attnviz.inspect(model, x)
    assert (entry.name, entry.kind, entry.shape) == ("gate", "spatial", (1, 16, 16))
    with torch.no_grad():
        skip = model.fine(x)
        deep = model.coarse(skip).double()
    gate = model.gate
    down = F.conv2d(skip.double(), gate.x.weight.detach().double(), stride=2)
    score = project(gate.psi, torch.relu(down + project(gate.g, deep)))
    coarse = 1 / (1 + torch.exp(-score))  # (B, 1, 8, 8)
    # bilinear to 16: cell i of the fine grid lies at (i + 1/2) / 2 - 1/2 of the coarse one
    at = ((torch.arange(16, dtype=torch.double) + 0.5) / 2 - 0.5).clamp(0, 7)
    low = at.floor().long().clamp(max=6)
    share = at - low
    mix = torch.zeros(16, 8, dtype=torch.double)
    mix[torch.arange(16), low] += 1 - share
    mix[torch.arange(16), low + 1] += share
    want = mix @ coarse @ mix.T
    close(entry.read(), want)
    close(drawn(spatial_gate(entry.read()[1], PHOTO).axes[1]), want[1, 0])


def test_non_local():
    module, x = shaken(NonLocalAttn(C, rd_channels=4)), torch.randn(2, C, 4, 4)
    [entry] = attnviz.inspect(module, x)
    assert (entry.kind, entry.shape) == ("self", (1, 16, 16))
    t, p = (project(part, x).flatten(2) for part in (module.t, module.p))
    want = softmax(torch.einsum("bci,bcj->bij", t, p) / C**0.5)
    close(entry.read()[:, 0], want)
    figure = place_maps(entry.read()[1], PHOTO, [(0, 3), (2, 1)])
    for line, query in enumerate((3, 9)):
        ax = figure.axes[2 * line + 1]
        close(drawn(ax), want[1, query].view(4, 4))
        assert f"max {want[1, query].max():.2g}" in ax.get_title()


def test_bottleneck():
    heads, side = 2, 4
    module = shaken(BottleneckAttn(C, feat_size=(side, side), num_heads=heads))
    x = torch.randn(2, C, side, side)
    [entry] = attnviz.inspect(module, x)
    assert (entry.kind, entry.shape) == ("self", (heads, side**2, side**2))
    q, k = project(module.qkv, x)[:, : 2 * C].view(2, 2, heads, C // heads, -1).unbind(1)
    score = torch.einsum("bhci,bhcj->bhij", q, k) / (C // heads) ** 0.5
    down, across = (
        r.detach().double() for r in (module.pos_embed.height_rel, module.pos_embed.width_rel)
    )
    for i in range(side**2):
        for j in range(side**2):
            (y, u), (z, v) = divmod(i, side), divmod(j, side)
            r = down[z - y + side - 1] + across[v - u + side - 1]
            score[:, :, i, j] += torch.einsum("bhc,c->bh", q[..., i], r)
    want = softmax(score)
    close(entry.read(), want)
    figure = place_maps(entry.read()[0], PHOTO, [(1, 2)])
    assert [ax.get_title().split(",")[0] for ax in figure.axes[1:3]] == ["head 0", "head 1"]
    for h in range(heads):
        close(drawn(figure.axes[1 + h]), want[0, h, 6].view(side, side))


def test_halo():
    heads, block, halo, side = 2, 2, 1, 4
    module = shaken(HaloAttn(C, block_size=block, halo_size=halo, num_heads=heads))
    x = torch.randn(1, C, side, side)
    [entry] = attnviz.inspect(module, x)
    window = block + 2 * halo
    assert (entry.kind, entry.shape) == ("self", (4, heads, block**2, window**2))
    weights = entry.read()
    q = project(module.q, x)[0].view(heads, -1, side, side)
    k = project(module.kv, x)[0, : 2 * C].view(heads, 2 * C // heads, side, side)[:, : C // heads]
    down, across = (
        r.detach().double() for r in (module.pos_embed.height_rel, module.pos_embed.width_rel)
    )
    photo_maps = {}
    for row in range(side):
        for column in range(side):
            (tall, y), (wide, u) = divmod(row, block), divmod(column, block)
            score = torch.zeros(heads, window, window, dtype=torch.double)
            one = q[:, :, row, column]
            for z in range(window):
                for v in range(window):
                    i, j = tall * block - halo + z, wide * block - halo + v
                    inside = 0 <= i < side and 0 <= j < side
                    key = k[:, :, i, j] if inside else torch.zeros_like(one)
                    r = down[z - y + window - 1] + across[v - u + window - 1]
                    score[:, z, v] = (one * key).sum(1) * module.scale + one @ r
            want = softmax(score.flatten(1))
            got = weights[tall * 2 + wide, :, y * block + u]
            close(got, want)
            seen = torch.full((heads, side + 2, side + 2), torch.nan, dtype=torch.double)
            top, left = tall * block, wide * block  # one cell of padding on each side
            seen[:, top : top + window, left : left + window] = want.view(heads, window, window)
            photo_maps[row, column] = seen[:, 1:-1, 1:-1]
    places = [(0, 0), (3, 1)]
    figure = blocks(weights, PHOTO, places, block=block, halo=halo)
    for line, place in enumerate(places):
        for h in range(heads):
            close(drawn(figure.axes[3 * line + 1 + h]), photo_maps[place][h])


def test_lambda():
    module, x = shaken(LambdaLayer(C, num_heads=2, dim_head=4, r=3)), torch.randn(2, C, 5, 5)
    [entry] = attnviz.inspect(module, x)
    assert (entry.kind, entry.shape) == ("spatial", (1, 4, 25))
    want = softmax(project(module.qkv, x)[:, 8:12].flatten(2))  # after 2 heads x 4 queries
    close(entry.read()[:, 0], want)
    maps = entry.read()[0, 0].unflatten(-1, (5, 5))
    figure = parts(maps, PHOTO, each=True, winner=False)
    for k in range(4):
        close(drawn(figure.axes[1 + k]), want[0, k].view(5, 5))


def test_criss_cross():
    module = shaken(CrissCrossAttention(C, hidden=4))
    high, wide = 3, 4
    x = torch.randn(2, C, high, wide)
    [entry] = attnviz.inspect(nn.Sequential(module), x)
    assert (entry.name, entry.kind) == ("0", "self")
    assert entry.shape == (2, high, wide, high + wide)
    maps = x.double()
    want = torch.zeros(2, 2, high, wide, high + wide, dtype=torch.double)
    for r in range(2):
        q, k, v = (project(p, maps) for p in (module.query, module.key, module.value))
        after = maps.clone()
        for i in range(high):
            for j in range(wide):
                column = [(a, j) for a in range(high) if a != i]
                cross = [*column, *((i, b) for b in range(wide))]
                score = torch.stack([(q[:, :, i, j] * k[:, :, a, b]).sum(1) for a, b in cross], 1)
                w = softmax(score)
                for n, (a, b) in enumerate(cross):
                    slot = a if n < len(column) else high + b
                    want[:, r, i, j, slot] = w[:, n]
                    after[:, :, i, j] += module.gamma.item() * w[:, n, None] * v[:, :, a, b]
        maps = after
    close(entry.read(), want)

    place = (1, 2)
    figure = criss_cross(entry.read()[0], PHOTO, [place])
    for r in range(2):
        map_ = torch.full((high, wide), torch.nan, dtype=torch.double)
        map_[:, 2] = want[0, r, 1, 2, :high]
        map_[1] = want[0, r, 1, 2, high:]
        close(drawn(figure.axes[1 + r]), map_)
    # through both passes: the product of the full matrices
    dense = [dense_attention(want[:1, r])[0] for r in range(2)]
    close(drawn(figure.axes[3]), (dense[1] @ dense[0])[wide + 2].view(high, wide))
    assert reach(want[0].numpy(), place).sum() == pytest.approx(1)


def test_expectation_maximisation():
    module, x = EMAttention(C, bases=3, rounds=2, sharpness=2.0).eval(), torch.randn(2, C, 4, 4)
    [entry] = attnviz.inspect(module, x)
    assert (entry.kind, entry.shape) == ("spatial", (3, 4, 4))
    assert entry.mechanism == "expectation-maximisation attention"
    y = project(module.before, x).flatten(2).mT
    for b in range(2):
        mu = module.initial.double()
        for _ in range(2):
            z = softmax(2.0 * y[b] @ mu.T)
            mu = torch.stack([(z[:, k, None] * y[b]).sum(0) / z[:, k].sum() for k in range(3)])
            mu = mu / mu.norm(dim=1, keepdim=True)
        close(entry.read()[b], z.T.reshape(3, 4, 4))
    figure = parts(entry.read()[1], PHOTO, top=1.0)
    for k in range(3):
        close(drawn(figure.axes[2 + k]), z[:, k].view(4, 4))
    # the picture of winners has the colour of the strongest map's title
    colours = figure.axes[1].images[0].get_array().reshape(-1, 3)
    titles = np.array([figure.axes[2 + k].title.get_color() for k in range(3)])
    np.testing.assert_allclose(colours, titles[z.argmax(1).numpy()])


def test_hamburger():
    module, x = Hamburger(C, rank=3, steps=2).eval(), torch.randn(1, C, 4, 4)
    [entry] = attnviz.inspect(module, x)
    assert (entry.kind, entry.shape) == ("spatial", (3, 4, 4))
    assert entry.mechanism == "matrix decomposition"
    y = project(module.lower, x)[0].flatten(1).clamp(min=0)
    d = module.initial.double()
    c = softmax(y.T @ d)
    eps = torch.finfo(torch.float32).eps
    for _ in range(2):
        c = c * (y.T @ d) / (c @ (d.T @ d) + eps)
        d = d * (y @ c) / (d @ (c.T @ c) + eps)
    c = c * (y.T @ d) / (c @ (d.T @ d) + eps)
    np.testing.assert_allclose(entry.read()[0], c.T.detach().view(3, 4, 4), rtol=2e-5, atol=1e-6)
    figure = parts(entry.read()[0], PHOTO, each=True)
    for k in range(3):
        close(drawn(figure.axes[2 + k]), entry.read()[0, k])
        assert f"max {c[:, k].max():.2g}" in figure.axes[2 + k].get_title()


def test_stand_alone():
    heads, k, side = 2, 3, 4
    module, x = (
        shaken(StandAloneSelfAttention(C, C, window=k, heads=heads)),
        torch.randn(1, C, 4, 4),
    )
    [entry] = attnviz.inspect(module, x)
    assert entry.kind == "self"
    weights = entry.read().view(side, side, heads, k, k)
    q, key = (project(p, x)[0].view(heads, -1, side, side) for p in (module.query, module.key))
    row, column = module.row.detach().double(), module.column.detach().double()
    maps = {}
    for i in range(side):
        for j in range(side):
            score = torch.full((heads, k, k), -torch.inf, dtype=torch.double)
            for a in range(k):
                for b in range(k):
                    y, u = i + a - 1, j + b - 1
                    if 0 <= y < side and 0 <= u < side:
                        r = torch.cat((row[:, :, a], column[:, :, b]), 1)
                        score[:, a, b] = (q[:, :, i, j] * (key[:, :, y, u] + r)).sum(1)
            want = softmax(score.flatten(1)).view(heads, k, k)
            close(weights[i, j], want)
            wide = torch.full((heads, side + 2, side + 2), torch.nan, dtype=torch.double)
            wide[:, i : i + k, j : j + k] = want
            maps[i, j] = wide[:, 1:-1, 1:-1]
    folded = weights.permute(2, 0, 1, 3, 4)
    figure = neighbourhoods(folded, PHOTO, [(0, 0), (2, 2)])
    for line, place in enumerate([(0, 0), (2, 2)]):
        for h in range(heads):
            close(drawn(figure.axes[3 * line + 1 + h]), maps[place][h])


class Declares(nn.Module):
    """A module that says itself what its attention is; the softmax inside is not listed."""

    @staticmethod
    def own_attention(inputs, output):
        return output, "temporal", "weights of its own", "something"

    def forward(self, x):
        return x.softmax(-1) @ x.mT


def test_what_a_module_declares_stands_for_what_it_is_made_of():
    x = torch.randn(2, 3, 5)
    [entry] = attnviz.inspect(nn.Sequential(Declares()), x)
    assert (entry.name, entry.kind, entry.shape) == ("0", "temporal", (3, 3))
    close(entry.read(), x.softmax(-1) @ x.mT)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: place_maps(torch.rand(1, 9, 9), PHOTO, [(3, 0)]), "not on the grid of 3 x 3"),
        (lambda: place_maps(torch.rand(1, 9, 8), PHOTO, [(0, 0)]), "one query and one key"),
        (lambda: parts(-torch.rand(2, 3, 3), PHOTO), "expected values of 0 or more"),
        (lambda: criss_cross(torch.rand(2, 3, 3, 5), PHOTO, [(0, 0)]), r"\(R, H, W, H \+ W\)"),
        (lambda: spatial_gate(torch.rand(2, 1, 3, 3), PHOTO), "pick one of the batch"),
        (lambda: spatial_gate(torch.rand(3, 3), torch.rand(5, 8, 8)), "expected .3, H, W."),
        (lambda: neighbourhoods(torch.rand(1, 3, 3, 2, 2), PHOTO, [(0, 0)]), "k odd"),
    ],
)
def test_errors(call, says):
    with pytest.raises(DataError, match=says):
        call()


def test_every_non_local_block_of_a_network_is_listed():
    import timm

    model = timm.create_model("resnet18", num_classes=2, block_args={"attn_layer": "nl"}).eval()
    inventory = attnviz.inspect(model, torch.randn(1, 3, 64, 64))
    want = [name for name, m in model.named_modules() if isinstance(m, NonLocalAttn)]
    assert [e.name for e in inventory] == want
    assert len(want) == 8
    assert {e.kind for e in inventory} == {"self"}
    assert inventory[0].shape == (1, 256, 256)
