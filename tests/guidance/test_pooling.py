"""Pooling heads: hand values, limits, and the identities that tie them to CAM."""

import math

import pytest
import torch
from torch import nn

from attnviz import errors, explain
from attnviz.guidance import POOLINGS, PooledModel, with_pooling


class Net(nn.Module):
    def __init__(self, dropout=0.2):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), nn.BatchNorm2d(6), nn.ReLU())
        self.last = nn.Conv2d(6, 7, 3, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.drop = nn.Dropout(dropout)
        self.fc = nn.Linear(7, 4)

    def forward(self, x):
        return self.fc(self.drop(self.pool(self.last(self.body(x))).flatten(1)))


@pytest.fixture
def model():
    return Net().double().eval()


@pytest.fixture
def images():
    return torch.randn(3, 3, 20, 16, dtype=torch.float64)


def pooled(name, scores, **options):
    values = torch.tensor(scores, dtype=torch.float64)[None, None]
    return POOLINGS.get(name).fn(**options)(values, values).item()


SCORES = [[1.0, -2.0, 0.5], [3.0, 0.0, -1.0]]


def test_values_by_hand():
    flat = [v for row in SCORES for v in row]
    assert pooled("gap", SCORES) == pytest.approx(1.5 / 6)
    assert pooled("gmp", SCORES) == 3
    lse = math.log(sum(math.exp(2 * v) for v in flat) / 6) / 2
    assert pooled("lse", SCORES, r=2.0) == pytest.approx(lse)
    assert pooled("lse", SCORES, r=1e-6) == pytest.approx(0.25, abs=1e-4)
    assert pooled("lse", SCORES, r=500.0) == pytest.approx(3, abs=0.01)
    assert pooled("topk", SCORES, k=1 / 3, alpha=0.7) == pytest.approx((2 + 0.7 * -1.5) / 2)
    assert pooled("topk", SCORES, k=0.01, alpha=0) == pytest.approx(1.5)
    p = 1 - math.prod(1 - 1 / (1 + math.exp(-v)) for v in flat)
    assert pooled("noisy-or", SCORES) == pytest.approx(math.log(p / (1 - p)))


def test_noisy_or_is_exact_where_products_round():
    many = [[2.0] * 40] * 40
    none = -1600 * math.log1p(math.exp(2))
    assert pooled("noisy-or", many) == pytest.approx(-none)
    rare = [[-40.0, -40.0]]
    assert pooled("noisy-or", rare) == pytest.approx(math.log(2 * math.exp(-40)), rel=1e-9)
    scores = torch.tensor([[[[-30.0, 0.5, 60.0]]]], dtype=torch.float64, requires_grad=True)
    pool = POOLINGS.get("noisy-or").fn()
    assert torch.autograd.gradcheck(lambda s: pool(s, s), scores)


@pytest.mark.parametrize("name", POOLINGS.names())
def test_gradcheck(name, model, images):
    swapped = with_pooling(model, name)
    if name == "attention-mil":
        nn.init.normal_(swapped.pooling.w.weight)
    parameters = [swapped.head.weight, swapped.head.bias, swapped.trunk.last.weight]
    assert torch.autograd.gradcheck(
        lambda *_: swapped(images[:2]), parameters, fast_mode=True, atol=1e-5
    )


def test_the_mean_is_the_model_itself_and_its_patches_are_cam(model, images):
    before = {k: v.clone() for k, v in model.state_dict().items()}
    swapped = with_pooling(model, "gap")
    assert isinstance(swapped, PooledModel)
    torch.testing.assert_close(swapped(images), model(images), rtol=0, atol=1e-12)
    cam = explain(model, images, target=2, method="cam", layer="last", signed=True)
    scores = swapped.patch_scores(images)[:, 2] - model.fc.bias[2]
    torch.testing.assert_close(scores.detach(), cam.values.double(), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(swapped.evidence(images).sum((2, 3)), model(images))
    # a copy: training it leaves the model alone
    swapped(images).sum().backward()
    assert all(p.grad is None for p in model.parameters())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize("name", ["gmp", "attention-mil"])
def test_evidence_adds_up(name, model, images):
    swapped = with_pooling(model, name)
    if name == "attention-mil":
        torch.testing.assert_close(swapped(images), model(images))  # starts as the mean
        nn.init.normal_(swapped.pooling.w.weight)
        # the definition: a linear layer on the attention's mean of the features
        h = swapped.features(images)
        a = swapped.pooling.weights(None, h)
        bag = (a * h).sum((2, 3))
        torch.testing.assert_close(swapped(images), model.fc(bag))
    torch.testing.assert_close(swapped.evidence(images).sum((2, 3)), swapped(images))


def test_real_networks():
    timm = pytest.importorskip("timm")
    x = torch.randn(2, 3, 64, 64)
    for name in ("resnet18", "tf_efficientnet_lite0"):
        model = timm.create_model(name, num_classes=5).eval()
        swapped = with_pooling(model, "gap")
        torch.testing.assert_close(swapped(x), model(x), rtol=1e-4, atol=1e-5)
        assert set(dict(swapped.named_parameters())) >= {"head.weight", "head.bias"}
        assert sum(p.numel() for p in swapped.parameters()) == sum(
            p.numel() for p in model.parameters()
        )


def test_guidance_works_on_a_swapped_head(model, images):
    from attnviz.guidance import check_alive, class_map, losses

    masks = torch.zeros(3, 20, 16)
    masks[:, 4:12, 3:9] = 1
    swapped = with_pooling(model, "lse").train()
    seen = class_map(swapped, images, [0, 1, 2], layer="trunk.last")
    assert not seen.exact
    alive = check_alive(losses.energy(seen, masks), swapped, maps=seen)
    assert "head.weight" in alive.moved


def test_refusals(model):
    with pytest.raises(errors.GuidanceError, match="did you mean 'lse'"):
        with_pooling(model, "lsee")
    with pytest.raises(errors.MethodError, match="'body'"):
        with_pooling(model, "lse", layer="body")
    with pytest.raises(errors.GuidanceError, match="cannot take these options"):
        with_pooling(model, "gap", layer="last", r=3)
    with pytest.raises(errors.GuidanceError, match="above 0"):
        with_pooling(model, "lse", layer="last", r=0)
    with pytest.raises(errors.GuidanceError, match=r"in \(0, 1\]"):
        with_pooling(model, "topk", layer="last", k=20)
