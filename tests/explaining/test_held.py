"""One of several inputs, or one view, is altered or attributed while the others are held fixed."""

import pytest
import torch
from torch import nn

from attnviz import explain
from attnviz.errors import MethodError

captum = pytest.importorskip("captum.attr")


class Table(nn.Module):
    """A picture and a row of numbers, which multiply."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.Tanh())
        self.table, self.head = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x, row):
        return self.head(self.net(x).mean((2, 3)) * self.table(row))


class Pair(Table):
    """Two pictures of different sizes through one network."""

    def forward(self, left, right):
        return self.head(self.net(left).mean((2, 3)) * self.net(right).square().mean((2, 3)))


class Views(Table):
    """Views folded into the batch, the logits of their maximum."""

    def forward(self, x):
        rows = self.net(x.flatten(0, 1)).mean((2, 3))
        return self.head(rows.unflatten(0, x.shape[:2]).amax(1))


def case(kind):
    model = {"table": Table, "pair": Pair, "views": Views}[kind]().double().eval()
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(3, 3, 16, 24, generator=generator).double()
    if kind == "table":
        return model, (x, torch.randn(3, 4, generator=generator).double())
    if kind == "pair":
        return model, (torch.rand(3, 3, 8, 8, generator=generator).double(), x)
    return model, torch.rand(3, 2, 3, 16, 24, generator=generator).double()


TARGETS = [2, 0, 1]


def score(model, inputs):
    rows = model(*inputs) if isinstance(inputs, tuple) else model(inputs)
    return rows[torch.arange(3), TARGETS]


def occluded(model, inputs, replaced, varied):
    """Plain loops: every square of the varying input covered with zeros, all else as it was."""
    maps = torch.zeros(3, 16, 24, dtype=torch.float64)
    plain = score(model, inputs)
    for top in range(0, 16, 8):
        for left in range(0, 24, 8):
            covered = varied.clone()
            covered[:, :, top : top + 8, left : left + 8] = 0
            drop = plain - score(model, replaced(covered))
            maps[:, top : top + 8, left : left + 8] = drop[:, None, None]
    return maps


@pytest.mark.parametrize(("kind", "vary", "asked"), [("table", 0, {}), ("pair", 1, {"vary": 1})])
def test_of_two_inputs_one_is_explained(kind, vary, asked):
    model, inputs = case(kind)

    def replaced(one):
        return (*inputs[:vary], one, *inputs[vary + 1 :])

    def maps(method, **options):
        found = explain(model, inputs, target=TARGETS, method=method, **asked, **options)
        assert found.meta["varied"] == vary
        assert found.target == tuple(TARGETS)
        torch.testing.assert_close(found.score, score(model, inputs).detach())
        return found.values

    with torch.no_grad():
        hand = occluded(model, inputs, replaced, inputs[vary])
    torch.testing.assert_close(maps("occlusion", window=8, stride=8), hand)
    x = inputs[vary].clone().requires_grad_()
    (slope,) = torch.autograd.grad(score(model, replaced(x)).sum(), x)
    torch.testing.assert_close(maps("input_x_gradient", signed=True), (slope * x).sum(1).detach())
    whole = captum.IntegratedGradients(lambda one: score(model, replaced(one)))
    wanted = whole.attribute(inputs[vary], n_steps=32, internal_batch_size=3).sum(1)
    found = maps("integrated_gradients", steps=512, signed=True)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-6)


def test_score_cam_masks_the_one_and_reads_its_call():
    model, (left, right) = case("pair")
    maps = explain(
        model, (left, right), target=TARGETS, method="scorecam", vary=1, layer="net", call=1
    )
    with torch.no_grad():
        activation, gains = model.net(right), []
        for channel in range(6):
            mask = torch.nn.functional.interpolate(
                activation[:, channel, None], (16, 24), mode="bilinear"
            )
            low, high = mask.amin((2, 3), keepdim=True), mask.amax((2, 3), keepdim=True)
            gains.append(score(model, (left, right * (mask - low) / (high - low))))
        weights = torch.stack(gains, 1).softmax(1)[..., None, None]
    torch.testing.assert_close(maps.values, (weights * activation).sum(1).relu())
    assert maps.layer == "net"
    assert maps.meta["call"] == 1


def test_named_inputs_and_classes():
    model, (x, row) = case("table")
    maps = explain(
        model, {"x": x, "row": row}, classes=[0, 2], method="occlusion", window=8, stride=8
    )
    assert maps.target == (0, 2) * 3
    assert maps.meta["varied"] == "x"
    alone = explain(model, (x[1:2], row[1:2]), target=2, method="occlusion", window=8, stride=8)
    torch.testing.assert_close(maps.values[3], alone.values[0])


@pytest.mark.filterwarnings("ignore:.*no evidence")
def test_each_view_is_explained_with_the_others_as_they_are():
    model, x = case("views")
    hands = []
    with torch.no_grad():
        for view in range(2):

            def replaced(one, view=view):
                return x.index_copy(1, torch.tensor([view]), one[:, None])

            hands.append(occluded(model, x, replaced, x[:, view]))
    maps = explain(model, x, target=TARGETS, method="occlusion", window=8, stride=8)
    torch.testing.assert_close(maps.values, torch.stack(hands, 1).flatten(0, 1))
    assert maps.meta["views"] == 2
    assert maps.target == (2, 2, 0, 0, 1, 1)
    leaf = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(score(model, leaf).sum(), leaf)
    found = explain(model, x, target=TARGETS, method="input_x_gradient", signed=True)
    torch.testing.assert_close(found.values, (slope * leaf).sum(2).flatten(0, 1).detach())


def test_which_input_is_said():
    model, (left, right) = case("pair")
    with pytest.raises(MethodError, match=r"vary=0 \(3, 8, 8\), vary=1 \(3, 16, 24\)"):
        explain(model, (left, right), target=0, method="occlusion")
    with pytest.raises(MethodError, match="vary=2 is no picture"):
        explain(model, (left, right), target=0, method="saliency", vary=2)
    with pytest.raises(MethodError, match="this one takes one"):
        explain(model.net, left, target=lambda y: y.sum((1, 2, 3)), method="occlusion", vary=0)


def test_nothing_is_altered():
    model, inputs = case("table")
    model.train()
    before = [value.clone() for value in inputs]
    explain(model, inputs, target=0, method=["occlusion", "saliency"])
    assert all(part.training for part in model.modules())
    assert all(torch.equal(a, b) for a, b in zip(before, inputs, strict=True))
    assert not any(value.requires_grad for value in inputs)
    assert not any(part._forward_hooks for part in model.modules())
