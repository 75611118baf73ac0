"""Channel attention: found, read as computed by hand, and drawn as it is."""

import numpy as np
import pytest
import torch
import torchvision
from timm.layers import EcaModule, GlobalContext, SEModule
from timm.layers.cbam import CbamModule
from timm.layers.coord_attn import CoordAttn
from torch import nn

import attnviz
from attnviz.errors import DataError
from attnviz.gallery.drawings.channel import channel_gates
from attnviz.gallery.drawings.coordinate import coordinate_gates

C, SIDE = 12, 6


def shaken(module):
    """Give every parameter and statistic of a module a value of its own."""
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            tensor.normal_(0, 0.7)
            if name.endswith("running_var"):
                tensor.abs_().add_(0.5)
    return module.eval()


def weight(conv):
    return conv.weight.detach().double().flatten(1), conv.bias if conv.bias is None else (
        conv.bias.detach().double()
    )


def mlp(z, first, second, middle=torch.relu):
    (a, p), (b, q) = weight(first), weight(second)
    hidden = middle(z @ a.T + (0 if p is None else p))
    return hidden @ b.T + (0 if q is None else q)


def by_hand_se(m, x):
    return torch.sigmoid(mlp(x.mean((2, 3)), m.fc1, m.fc2))


def by_hand_eca(m, x):
    z, w = x.mean((2, 3)), m.conv.weight.detach().double().flatten()
    half = len(w) // 2
    out = torch.zeros_like(z)
    for c in range(z.shape[1]):
        for d in range(-half, half + 1):
            if 0 <= c + d < z.shape[1]:
                out[:, c] += w[d + half] * z[:, c + d]
    return 1 / (1 + torch.exp(-out))


def by_hand_cbam(m, x):
    m = m.channel
    return torch.sigmoid(mlp(x.mean((2, 3)), m.fc1, m.fc2) + mlp(x.amax((2, 3)), m.fc1, m.fc2))


def by_hand_gc(m, x):
    w, b = weight(m.conv_attn)
    score = (x.flatten(2) * w[0][:, None]).sum(1) + b
    share = torch.exp(score) / torch.exp(score).sum(1, keepdim=True)
    norm = m.mlp_scale.norm

    def middle(h):
        mean, var = h.mean(1, keepdim=True), h.var(1, unbiased=False, keepdim=True)
        h = (h - mean) / (var + norm.eps).sqrt()
        return torch.relu(h * norm.weight.detach().double() + norm.bias.detach().double())

    context = (x.flatten(2) * share[:, None]).sum(2)
    return torch.sigmoid(mlp(context, m.mlp_scale.fc1, m.mlp_scale.fc2, middle))


MODULES = {
    "se": (lambda: SEModule(C, rd_channels=4), by_hand_se),
    "torchvision se": (lambda: torchvision.ops.SqueezeExcitation(C, 4), by_hand_se),
    "eca": (lambda: EcaModule(C, kernel_size=3), by_hand_eca),
    "cbam": (lambda: CbamModule(C, rd_channels=4), by_hand_cbam),
    "gc": (lambda: GlobalContext(C, rd_channels=4), by_hand_gc),
}


@pytest.mark.parametrize("name", MODULES)
def test_gates_are_read_as_computed_by_hand_and_drawn(name):
    build, by_hand = MODULES[name]
    module = shaken(build())
    x = torch.randn(2, C, SIDE, SIDE) + 2 * torch.randn(2, C, 1, 1)
    [entry] = attnviz.inspect(nn.Sequential(nn.Identity(), module), x).of_kind("channel")
    assert entry.shape == (C, 1, 1)
    assert entry.attends == "one weight for each channel"
    gate = entry.read()
    want = by_hand(module, x.double())
    np.testing.assert_allclose(gate.flatten(1), want, rtol=0, atol=1e-6)
    assert want.std() > 0.05  # the comparison is of something

    photo = torch.rand(3, 12, 12)
    figure = channel_gates(gate[1], x[1], photo, most=3, least=2)
    bars = [patch for patch in figure.axes[0].patches if patch.get_width() == 0.85]
    np.testing.assert_allclose([b.get_height() for b in bars], want[1], atol=1e-6)
    assert figure.axes[0].get_ylim()[0] == 0
    order = want[1].argsort(descending=True)
    order = order[x[1, order].amax((1, 2)) > 0]  # what is 0 everywhere is no picture
    chosen = [*order[:3].tolist(), *order[-2:].tolist()]
    thumbs = figure.axes[2:]
    assert [ax.get_title().split()[1] for ax in thumbs] == [str(c) for c in chosen]
    for ax, channel in zip(thumbs, chosen, strict=True):
        np.testing.assert_allclose(ax.images[-1].get_array(), x[1, channel].clamp(min=0), atol=1e-6)
        assert f"0 to {x[1, channel].max().clamp(min=0):.3g}" == ax.get_xlabel()


def test_global_context_also_pools():
    module, x = shaken(GlobalContext(C, rd_channels=4)), torch.randn(2, C, SIDE, SIDE)
    [entry] = attnviz.inspect(module, x).of_kind("spatial")
    w, b = weight(module.conv_attn)
    score = (x.double().flatten(2) * w[0][:, None]).sum(1) + b
    want = torch.exp(score) / torch.exp(score).sum(1, keepdim=True)
    np.testing.assert_allclose(entry.read()[:, 0, 0], want, rtol=0, atol=1e-6)


def test_coordinate_attention():
    module = shaken(CoordAttn(C, rd_channels=4))
    x = torch.randn(2, C, 5, 7)
    columns, rows = attnviz.inspect(module, x).of_kind("channel & spatial")
    assert (rows.shape, columns.shape) == ((C, 5, 1), (C, 1, 7))
    d = x.double()
    strips = torch.cat((d.mean(3), d.mean(2)), 2)  # (B, C, H + W)
    w1 = weight(module.conv1)[0]
    y = torch.einsum("oc,bcn->bon", w1, strips)
    bn = module.bn1
    y = (y - bn.running_mean[:, None]) / (bn.running_var[:, None].double() + bn.eps).sqrt()
    y = y * bn.weight.detach()[:, None] + bn.bias.detach()[:, None]
    y = y * (y + 3).clamp(0, 6) / 6  # hard swish
    high = torch.sigmoid(torch.einsum("oc,bcn->bon", weight(module.conv_h)[0], y[..., :5]))
    wide = torch.sigmoid(torch.einsum("oc,bcn->bon", weight(module.conv_w)[0], y[..., 5:]))
    np.testing.assert_allclose(rows.read()[..., 0], high, rtol=0, atol=1e-6)
    np.testing.assert_allclose(columns.read()[:, :, 0], wide, rtol=0, atol=1e-6)

    figure = coordinate_gates(rows.read()[0], columns.read()[0], torch.rand(3, 20, 28), channels=2)
    strip, beside, _, first, second = figure.axes[:5]
    np.testing.assert_allclose(strip.images[0].get_array(), high[0].T, atol=1e-6)
    np.testing.assert_allclose(beside.images[0].get_array(), wide[0].T, atol=1e-6)
    product = high[0, :, :, None] * wide[0, :, None]
    best = product.std((1, 2), unbiased=False).argsort(descending=True)[:2].tolist()
    for ax, channel in zip((first, second), best, strict=True):
        assert ax.get_title().startswith(f"channel {channel}:")
        np.testing.assert_allclose(ax.images[-1].get_array(), product[channel], atol=1e-6)


def test_other_gates_are_dots():
    gate, other = torch.rand(5), torch.rand(5)
    ax = channel_gates(gate, other=other).axes[0]
    dots = next(line for line in ax.lines if line.get_marker() == "o")
    np.testing.assert_allclose(dots.get_ydata(), other, atol=1e-7)


def test_errors():
    with pytest.raises(DataError, match="5 gates for an activation of 4 channels"):
        channel_gates(torch.rand(5), torch.rand(4, 3, 3))
    with pytest.raises(DataError, match=r"expected \(C, H, 1\)"):
        coordinate_gates(torch.rand(3, 4, 2), torch.rand(3, 1, 5), torch.rand(3, 8, 8))
