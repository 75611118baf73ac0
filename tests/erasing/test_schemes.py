"""Erasing in training: each scheme against its definition written out."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from attnviz.erasing import SCHEMES, ACoL, attention_dropout, cascade, cut_and_mix, hide_cells
from attnviz.erasing.cutmix import _beta
from attnviz.errors import DataError, MethodError


def net(classes=3):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(5, 5, 3, padding=1), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(5, classes),
    )  # fmt: skip


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    return torch.rand(4, 3, 12, 12, generator=generator), torch.tensor([0, 1, 2, 1])


def seeded(k=7):
    return torch.Generator().manual_seed(k)


def test_hidden_cells_are_whole_cells(batch):
    images, _ = batch
    hidden = hide_cells(images, cells=4, probability=0.5, fill="zero", generator=seeded())
    cells = (hidden != images).any(1).float()
    blocks = F.avg_pool2d(cells[:, None], 3)
    assert set(blocks.unique().tolist()) == {0.0, 1.0}
    assert 0.2 < blocks.mean() < 0.8
    nothing = hide_cells(images, probability=0.0, generator=seeded())
    assert torch.equal(nothing, images)
    many = hide_cells(torch.ones(400, 1, 8, 8), cells=8, fill="zero", generator=seeded())
    assert (1 - many.mean()) == pytest.approx(0.5, abs=0.02)


def test_cutmix_shares_are_exact(batch):
    images, labels = batch
    for k in range(20):
        mixed = cut_and_mix(images, generator=seeded(k))
        x0, y0, x1, y1 = mixed.box
        expected = images.clone()
        expected[:, :, y0:y1, x0:x1] = images[mixed.order][:, :, y0:y1, x0:x1]
        assert torch.equal(mixed.images, expected)
        assert mixed.share == pytest.approx(1 - (x1 - x0) * (y1 - y0) / 144)
    model = net()
    loss = SCHEMES.get("cutmix").fn(model, images, labels, generator=seeded(3))
    mixed = cut_and_mix(images, generator=seeded(3))
    logits = model(mixed.images).log_softmax(1)
    own = -logits[range(4), labels].mean()
    other = -logits[range(4), labels[mixed.order]].mean()
    assert loss.item() == pytest.approx((mixed.share * own + (1 - mixed.share) * other).item())
    draws = seeded()
    values = torch.tensor([_beta(0.2, draws, torch.device("cpu")) for _ in range(2000)])
    assert values.mean().item() == pytest.approx(0.5, abs=0.03)
    assert values.var().item() == pytest.approx(0.25 / 1.4, abs=0.01)  # of Beta(.2, .2)


def test_attention_dropout_by_hand():
    features = torch.tensor([[[[1.0, 2.0], [8.0, 10.0]], [[1.0, 2.0], [10.0, 10.0]]]])
    dropped = attention_dropout(features, rate=1.0, gamma=0.8)
    assert dropped[0].tolist() == [[[1, 2], [0, 0]], [[1, 2], [0, 0]]]
    kept = attention_dropout(features, rate=0.0)
    torch.testing.assert_close(kept, features * features.mean(1, keepdim=True).sigmoid())
    draws = attention_dropout(features.repeat(4000, 1, 1, 1), generator=seeded())
    assert (draws[:, 0, 1, 1] == 0).float().mean().item() == pytest.approx(0.75, abs=0.03)


def tail(model, features):
    return model[2:](features)


def test_branches_by_hand(batch):
    images, labels = batch
    model = net()
    features = model[:2](images)
    attention = features.mean(1, keepdim=True)
    most = attention.amax((2, 3), keepdim=True)
    whole = F.cross_entropy(tail(model, features), labels)
    erased = F.cross_entropy(tail(model, features * (attention <= 0.7 * most)), labels)
    eil = SCHEMES.get("eil").fn(model, images, labels, layer="1", weight=0.5)
    assert eil.item() == pytest.approx((whole + 0.5 * erased).item(), rel=1e-5)

    share = attention / most.clamp_min(1e-12)
    sign = torch.where(share > 0.7, 0.0, torch.where(share < 0.05, -1.0, 1.0))
    kept = F.cross_entropy(tail(model, (features * sign).relu()), labels)
    ground = tail(model, features * (share < 0.375)).log_softmax(1).mean()
    seenet = SCHEMES.get("seenet").fn(model, images, labels, layer="1")
    assert seenet.item() == pytest.approx((whole + kept - ground).item(), rel=1e-5)

    adl = SCHEMES.get("adl").fn(model, images, labels, layer="1", rate=1.0)
    by_hand = tail(model, features * (attention <= 0.8 * most))
    assert adl.item() == pytest.approx(F.cross_entropy(by_hand, labels).item(), rel=1e-5)
    assert not model[1]._forward_hooks


@pytest.mark.parametrize("name", SCHEMES.names())
def test_every_scheme_trains_and_is_repeatable(name, batch):
    images, labels = batch
    model = net()
    fn = SCHEMES.get(name).fn
    one = fn(model, images, labels, layer="1", generator=seeded())
    two = fn(model, images, labels, layer="1", generator=seeded())
    assert one.item() == two.item()
    gradients = torch.autograd.grad(one, list(model.parameters()))
    assert all(g.abs().max() > 0 for g in gradients)


def test_schemes_refuse_a_layer_without_positions(batch):
    images, labels = batch
    with pytest.raises(MethodError, match=r"activation \(B, C, h, w\)"):
        SCHEMES.get("eil").fn(net(), images, labels, layer="4")
    model = net()
    with pytest.raises(RuntimeError, match="channels"):
        SCHEMES.get("eil").fn(model, images[:, :2], labels, layer="1")
    assert not model[1]._forward_hooks


def test_acol_erases_what_the_first_one_sees(batch):
    images, labels = batch
    model = ACoL(net(), "1", 5, 3, threshold=0.7)
    output = model(images, labels)
    features = model.trunk[:2](images)
    first = model.first(features)
    own = first[range(4), labels]
    low, high = own.amin((1, 2), keepdim=True), own.amax((1, 2), keepdim=True)
    share = ((own - low) / (high - low))[:, None]
    second = model.second(features * (share < 0.7))
    torch.testing.assert_close(output.logits, first.mean((2, 3)))
    torch.testing.assert_close(output.erased_logits, second.mean((2, 3)))

    def unit(m):
        low, high = m.amin((2, 3), keepdim=True), m.amax((2, 3), keepdim=True)
        return (m - low) / (high - low)

    torch.testing.assert_close(output.maps, torch.maximum(unit(first), unit(second)))
    loss = model.loss(images, labels)
    by_hand = F.cross_entropy(output.logits, labels) + F.cross_entropy(output.erased_logits, labels)
    assert loss.item() == pytest.approx(by_hand.item())
    assert not model.trunk[1]._forward_hooks


class Corner(nn.Module):
    """Reads one patch of 4 x 4, the brightest that is left: planted evidence."""

    def __init__(self, y, x):
        super().__init__()
        self.read = nn.Conv2d(3, 1, 1, bias=False)
        self.read.weight.data.fill_(1.0)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(1, 2, bias=False)
        self.head.weight.data.copy_(torch.tensor([[-1.0], [1.0]]))
        gate = torch.zeros(1, 1, 16, 16)
        gate[..., y : y + 4, x : x + 4] = 1
        self.register_buffer("gate", gate)

    def forward(self, images):
        gated = self.read(images * self.gate)
        return self.head(self.pool(gated).flatten(1)) * 100 - torch.tensor([0.0, 1.0])


def test_the_cascade_unites_what_each_round_finds():
    """Round one is given a reader of one corner, round two of another; the third finds nothing."""
    images = torch.zeros(2, 3, 16, 16)
    images[1, :, 0:4, 0:4] = 1
    images[1, :, 8:12, 8:12] = 1
    labels = torch.tensor([0, 1])
    models = iter([Corner(0, 0), Corner(8, 8), Corner(0, 0)])
    seen = []

    def train(x, y):
        seen.append(x)
        return next(models)

    found = cascade(train, images, labels, layer="read", fill="zero", threshold=0.8)
    assert found.stopped == "accuracy"
    assert found.accuracy == (1.0, 1.0)
    expected = torch.zeros(16, 16, dtype=torch.bool)
    expected[0:4, 0:4] = expected[8:12, 8:12] = True
    assert torch.equal(found.union[1], expected)
    assert torch.equal(found.regions[0, 1], expected & (torch.arange(16) < 5))
    assert not found.union[0].any()
    assert seen[0] is images  # untouched, and the third round saw both gone
    assert seen[2].abs().sum() == 0
    flat = cascade(lambda x, y: Corner(0, 0), torch.zeros(2, 3, 16, 16), torch.tensor([0, 0]),
                   layer="read")  # fmt: skip
    assert flat.stopped == "area"
    with pytest.raises(DataError, match="one label an image"):
        cascade(train, images, labels[:1])
