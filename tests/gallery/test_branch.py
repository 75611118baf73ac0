"""Branch attention: found, read as computed by hand, and drawn as it is."""

import numpy as np
import pytest
import torch
from timm.layers import SelectiveKernel, SplitAttn
from torch import nn

import attnviz
from attnviz.errors import DataError
from attnviz.gallery.drawings.branches import branch_shares, gates_by_layer
from attnviz.gallery.modules.highway import HighwayClassifier

C = 8


def shaken(module):
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            tensor.normal_(0, 0.7)
            if name.endswith("running_var"):
                tensor.abs_().add_(0.5)
    return module.eval()


def normalised(bn, y):
    y = (y - bn.running_mean.double()) / (bn.running_var.double() + bn.eps).sqrt()
    return y * bn.weight.detach().double() + bn.bias.detach().double()


def matrix(conv):
    return conv.weight.detach().double().flatten(1)


def softmax(z, dim):
    e = torch.exp(z - z.amax(dim, keepdim=True))
    return e / e.sum(dim, keepdim=True)


def by_hand_sk(m, x):
    with torch.no_grad():
        paths = [path.double()(half) for path, half in zip(m.paths, x.chunk(2, 1), strict=True)]
    z = sum(paths).mean((2, 3))
    z = torch.relu(normalised(m.attn.bn, z @ matrix(m.attn.fc_reduce).T))
    return softmax((z @ matrix(m.attn.fc_select).T).view(len(x), 2, C), 1)


def by_hand_split(m, x):
    with torch.no_grad():
        u = torch.relu(m.bn0.double()(m.conv.double()(x)))
    z = u.view(len(x), 2, C, *u.shape[2:]).sum(1).mean((2, 3))
    z = z @ matrix(m.fc1).T + m.fc1.bias.detach().double()
    z = torch.relu(normalised(m.bn1, z))
    z = z @ matrix(m.fc2).T + m.fc2.bias.detach().double()
    return softmax(z.view(len(x), 2, C), 1)


@pytest.mark.parametrize(
    ("build", "by_hand"),
    [
        (lambda: SelectiveKernel(C, C), by_hand_sk),
        (lambda: SplitAttn(C, C, norm_layer=nn.BatchNorm2d), by_hand_split),
    ],
    ids=["selective kernel", "split attention"],
)
def test_shares_are_read_as_computed_by_hand_and_drawn(build, by_hand):
    module, x = shaken(build()), torch.randn(2, C, 6, 6)
    [entry] = attnviz.inspect(module, x).of_kind("branch")
    assert entry.shape == (2, C, 1, 1)
    shares = entry.read()
    want = by_hand(module, x.double())
    np.testing.assert_allclose(shares.flatten(2), want, rtol=0, atol=1e-6)
    assert want.std() > 0.05

    ax = branch_shares(shares[0], names=["a", "b"]).axes[0]
    bars = np.array([[b.get_y(), b.get_height()] for b in ax.patches])
    np.testing.assert_allclose(bars[:C, 1], want[0, 0], atol=1e-6)
    np.testing.assert_allclose(bars[C:, 1], want[0, 1], atol=1e-6)
    np.testing.assert_allclose(bars[C:, 0], want[0, 0], atol=1e-6)  # stands on the first
    assert [t.get_text() for t in ax.get_legend().get_texts()] == [
        f"{n}: mean share {w.mean():.2f}" for n, w in zip("ab", want[0], strict=True)
    ]


def test_highway_gates_are_one_mechanism_a_layer():
    model = shaken(HighwayClassifier(inputs=16, dim=6, layers=3))
    x = torch.rand(2, 1, 4, 4)
    entries = attnviz.inspect(model, x).entries
    assert [(e.name, e.kind, e.shape) for e in entries] == [
        (f"layers.{i}", "branch", (2, 6)) for i in range(3)
    ]
    assert entries[0].mechanism == "gate (sigmoid) and its complement"
    h = torch.relu(
        x.double().flatten(1) @ model.enter.weight.detach().double().T + model.enter.bias.detach()
    )
    gates = []
    for layer, entry in zip(model.layers, entries, strict=True):
        gate, transform = (
            h @ part.weight.detach().double().T + part.bias.detach().double()
            for part in (layer.gate, layer.transform)
        )
        gate = 1 / (1 + torch.exp(-gate))
        np.testing.assert_allclose(entry.read()[:, 0], gate, rtol=0, atol=1e-6)
        np.testing.assert_allclose(entry.read()[:, 1], 1 - gate, rtol=0, atol=1e-6)
        h = gate * torch.relu(transform) + (1 - gate) * h
        gates.append(gate)
    drawn = torch.stack([e.read()[0, 0] for e in entries])
    cells, means = gates_by_layer(drawn).axes[:2]
    want = torch.stack(gates)[:, 0]
    np.testing.assert_allclose(cells.images[0].get_array(), want, atol=1e-6)
    assert cells.images[0].get_clim() == (0, 1)
    np.testing.assert_allclose([b.get_width() for b in means.patches], want.mean(1), atol=1e-6)


class TwoGates(nn.Module):
    """Two gates of one shape that are no complements: two mechanisms."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return torch.sigmoid(self.a(x)) * x.relu() + torch.sigmoid(self.b(x)) * x.tanh()


def test_other_pairs_of_gates_stay_two():
    entries = attnviz.inspect(TwoGates().eval(), torch.randn(2, 4)).entries
    assert [e.kind for e in entries] == ["channel", "channel"]


def test_errors():
    with pytest.raises(DataError, match="sum to 1 only within"):
        branch_shares(torch.rand(2, 5))
    with pytest.raises(DataError, match="3 names for 2 branches"):
        branch_shares(torch.full((2, 5), 0.5), names=["a", "b", "c"])
